"use strict";
// The slice browser: sections of two volumes that lie in the page as pictures, 8 bits a voxel.
// Positions are voxels of the file, from 0; z, y, x in this order, as everywhere in the package.
(() => {
  const section = document.getElementById("browser");
  const data = JSON.parse(document.getElementById("volumes").textContent);
  if (!section || !data) return;
  const find = (id) => document.getElementById(id);
  const AXES = ["z", "y", "x"];
  const [nz, ny, nx] = data.shape;
  // across and down: axes of a picture; row 0 of a canvas is the highest voxel
  const VIEWS = {
    xy: { across: 2, down: 1, through: 0 },
    xz: { across: 2, down: 0, through: 1 },
    yz: { across: 0, down: 1, through: 2 },
  };
  const STRIDES = [ny * nx, nx, 1];
  const PERIOD = 16; // pixels from stripe to stripe, as in the still pictures
  const LARGE = Math.max(1, Math.round(720 / Math.max(nx, ny))); // pixels of a stripe canvas per voxel
  const volumes = {};
  const state = { at: [0, 0, 0], wipe: 50, show: data.before ? "wipe" : "after", cross: true, hatch: true };

  /** Begin to load the pictures of the sections; the page's own load event waits for them. */
  function load(pictures, type) {
    return pictures.map((text) => {
      const image = new Image();
      image.src = `data:${type};base64,${text}`;
      return image;
    });
  }

  /** Turn loaded pictures into one array of grey levels. */
  function unpack(images) {
    const levels = new Uint8Array(nz * ny * nx);
    const canvas = document.createElement("canvas");
    canvas.width = nx;
    canvas.height = ny;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    images.forEach((image, z) => {
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, nx, ny).data;
      for (let i = 0, start = z * ny * nx; i < ny * nx; i += 1) levels[start + i] = pixels[4 * i];
      images[z] = null; // never all of them unpacked
    });
    return levels;
  }

  const cell = (axis) => Math.min(data.shape[axis] - 1, Math.floor(state.at[axis] / data.bins[axis]));

  /** Part of the width, from the left, that shows the volume before. */
  function shareBefore() {
    if (state.show === "wipe") return state.wipe / 100;
    return state.show === "before" ? 1 : 0;
  }

  function drawLevels(view, canvas) {
    const { across, down, through } = view;
    const [width, height] = [canvas.width, canvas.height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const border = Math.round(width * shareBefore());
    const start = cell(through) * STRIDES[through];
    for (let row = 0; row < height; row += 1) {
      const line = start + (height - 1 - row) * STRIDES[down];
      for (let column = 0; column < width; column += 1) {
        const levels = column < border ? volumes.before : volumes.after;
        const level = levels[line + column * STRIDES[across]];
        const i = 4 * (row * width + column);
        image.data[i] = image.data[i + 1] = image.data[i + 2] = level;
        image.data[i + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Stripes, black beside white, where the restored volume is doubtful. */
  function drawStripes(view, canvas) {
    const { across, down, through } = view;
    const [width, height] = [canvas.width, canvas.height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const border = Math.round((width / LARGE) * shareBefore()) * LARGE;
    const start = cell(through) * STRIDES[through];
    for (let row = 0; state.hatch && row < height; row += 1) {
      const line = start + Math.floor((height - 1 - row) / LARGE) * STRIDES[down];
      for (let column = border; column < width; column += 1) {
        if (!volumes.doubtful[line + Math.floor(column / LARGE) * STRIDES[across]]) continue;
        const place = (row + column) % PERIOD;
        if (place >= PERIOD / 2) continue;
        const i = 4 * (row * width + column);
        const level = place < PERIOD / 4 ? 0 : 255;
        image.data[i] = image.data[i + 1] = image.data[i + 2] = level;
        image.data[i + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  function drawView(name) {
    const view = VIEWS[name];
    const { across, down } = view;
    drawLevels(view, find(`canvas-${name}`));
    if (volumes.doubtful) drawStripes(view, find(`hatch-${name}`));
    const picture = find(`look-${name}`);
    const [columns, rows] = [data.shape[across], data.shape[down]];
    const along = picture.querySelector(".hair.along");
    const level = picture.querySelector(".hair.across");
    along.style.left = `${(100 * (cell(across) + 0.5)) / columns}%`;
    level.style.top = `${(100 * (rows - cell(down) - 0.5)) / rows}%`;
    along.hidden = level.hidden = !state.cross;
    const share = shareBefore();
    const border = picture.querySelector(".border");
    border.hidden = state.show !== "wipe" || share === 0 || share === 1;
    border.style.left = `${(100 * Math.round(columns * share)) / columns}%`;
  }

  /** Say where a slice lies: its voxels, and its distance from the centre of the tomogram. */
  function describe(axis) {
    const bin = data.bins[axis];
    const first = cell(axis) * bin;
    const last = first + bin - 1;
    const voxels = bin === 1 ? `voxel ${first}` : `voxels ${first} to ${last}`;
    const distance = ((first + last) / 2 - Math.floor(data.file[axis] / 2)) * data.voxel;
    const sign = distance < -0.05 ? "−" : distance > 0.05 ? "+" : "";
    return `${voxels} of 0 to ${data.file[axis] - 1}, ${sign}${Math.abs(distance).toFixed(1)} Å from the centre`;
  }

  function drawControls() {
    AXES.forEach((name, axis) => {
      const slider = find(`slider-${name}`);
      slider.value = String(cell(axis) * data.bins[axis]);
      find(`place-${name}`).textContent = describe(axis);
      slider.setAttribute("aria-valuetext", describe(axis));
    });
    find("cross").checked = state.cross;
    if (data.doubtful) find("hatch").checked = state.hatch;
    const share = shareBefore();
    section.querySelector(".tag.after").hidden = share === 1;
    if (!data.before) return;
    section.querySelector(".tag.before").hidden = share === 0;
    find(`show-${state.show}`).checked = true;
    find("wipe").value = String(state.wipe);
    // never disabled: the letters would be lost with the focus. Moving it brings the border back
    const both = `${state.wipe} % before at the left, ${100 - state.wipe} % after at the right`;
    const said = state.show === "wipe" ? both : `${state.show} alone; move it to show both`;
    find("place-wipe").textContent = said;
    find("wipe").setAttribute("aria-valuetext", said);
  }

  let waiting = 0;
  /** Keep the address of what is seen in the address bar, so that it can be sent to somebody. */
  function remember() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const words = AXES.map((name, axis) => `${name}=${state.at[axis]}`);
      if (data.before) words.push(`wipe=${state.wipe}`, `show=${state.show}`);
      if (data.doubtful) words.push(`hatch=${Number(state.hatch)}`);
      words.push(`cross=${Number(state.cross)}`);
      try {
        history.replaceState(null, "", `#${words.join("&")}`);
      } catch (error) {
        // some browsers refuse this for files; nothing else depends on it
      }
    }, 250);
  }

  let asked = false;
  function draw() {
    drawControls();
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      Object.keys(VIEWS).forEach(drawView);
      section.dataset.drawn = String(Number(section.dataset.drawn || 0) + 1);
    });
  }

  const clamp = (value, most) => Math.max(0, Math.min(most, value));

  /** Take the place from the address, as #z=10&wipe=30; what is not there stays as it is. */
  function follow() {
    const words = new URLSearchParams(location.hash.slice(1));
    AXES.forEach((name, axis) => {
      const value = Number.parseInt(words.get(name) ?? "", 10);
      if (Number.isFinite(value)) state.at[axis] = clamp(value, data.file[axis] - 1);
    });
    const wipe = Number.parseInt(words.get("wipe") ?? "", 10);
    if (Number.isFinite(wipe)) state.wipe = clamp(wipe, 100);
    if (data.before && ["wipe", "before", "after"].includes(words.get("show"))) state.show = words.get("show");
    for (const name of ["hatch", "cross"]) if (words.has(name)) state[name] = words.get(name) !== "0";
  }

  function change(values) {
    Object.assign(state, values);
    draw();
    remember();
  }

  function moveTo(view, event, picture) {
    const box = picture.getBoundingClientRect();
    const right = clamp((event.clientX - box.left) / box.width, 0.9999);
    const up = clamp((box.bottom - event.clientY) / box.height, 0.9999);
    const at = [...state.at];
    at[view.across] = Math.floor(right * data.shape[view.across]) * data.bins[view.across];
    at[view.down] = Math.floor(up * data.shape[view.down]) * data.bins[view.down];
    change({ at });
  }

  function listen() {
    AXES.forEach((name, axis) => {
      find(`slider-${name}`).addEventListener("input", (event) => {
        const at = [...state.at];
        at[axis] = Number(event.target.value);
        change({ at });
      });
    });
    for (const name of ["cross", "hatch"]) {
      find(name)?.addEventListener("change", (event) => change({ [name]: event.target.checked }));
    }
    for (const name of data.before ? ["wipe", "before", "after"] : []) {
      find(`show-${name}`).addEventListener("change", () => change({ show: name }));
    }
    find("wipe")?.addEventListener("input", (event) => {
      change({ wipe: Number(event.target.value), show: "wipe" });
    });
    for (const [name, view] of Object.entries(VIEWS)) {
      const picture = find(`look-${name}`);
      picture.addEventListener("pointerdown", (event) => {
        picture.setPointerCapture(event.pointerId);
        moveTo(view, event, picture);
      });
      picture.addEventListener("pointermove", (event) => {
        if (event.buttons & 1) moveTo(view, event, picture);
      });
    }
    // letters count only while something of the browser has the focus, lest they are typed elsewhere
    section.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const shows = { w: "wipe", b: "before", a: "after" };
      const key = event.key.toLowerCase();
      if (data.before && shows[key]) change({ show: shows[key] });
      else if (key === "c") change({ cross: !state.cross });
      else if (key === "h" && data.doubtful) change({ hatch: !state.hatch });
      else return;
      event.preventDefault();
    });
    addEventListener("hashchange", () => {
      follow();
      draw();
    });
  }

  function start() {
    for (const [name, view] of Object.entries(VIEWS)) {
      const size = [data.shape[view.across], data.shape[view.down]];
      for (const [kind, factor] of [["canvas", 1], ["hatch", LARGE]]) {
        const canvas = find(`${kind}-${name}`);
        if (canvas) [canvas.width, canvas.height] = size.map((n) => n * factor);
      }
    }
    section.hidden = false;
    const types = { after: data.type, before: data.type, doubtful: "image/png" };
    const loading = Object.entries(types).filter(([name]) => data[name]);
    const images = Object.fromEntries(loading.map(([name, type]) => [name, load(data[name], type)]));
    // at once when all are there, so that the first picture of the page is complete
    addEventListener("load", () => attempt(() => finish(images)), { once: true });
  }

  function finish(images) {
    for (const [name, pictures] of Object.entries(images)) volumes[name] = unpack(pictures);
    state.at = data.file.map((n) => Math.floor(n / 2));
    follow();
    listen();
    draw();
    find("loading").hidden = true;
    find("controls").disabled = false;
    section.dataset.ready = "1";
  }

  function attempt(work) {
    try {
      work();
    } catch (error) {
      find("loading").textContent = `The slices cannot be shown in this browser: ${error.message}`;
    }
  }

  attempt(start);
})();
