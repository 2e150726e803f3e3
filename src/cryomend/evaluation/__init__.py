"""Stage 8: score a restored volume and write its report.

In: a restored volume, and a truth, named areas or the raw volume. Out: scores and an HTML page.
"""

from cryomend.evaluation.areas import Area, Areas, choose_areas, named_areas, read_areas
from cryomend.evaluation.baseline import best_gaussian
from cryomend.evaluation.evaluate import (
    evaluate_files,
    evaluate_halves,
    evaluate_volume,
    fourier_rows,
    summary_rows,
)
from cryomend.evaluation.fsc import (
    cone_mask,
    fourier_correlation,
    fourier_shell_correlation,
    fsc_crossing,
    mean_fsc,
    shell_resolution,
    spectral_snr,
)
from cryomend.evaluation.half_files import evaluate_half_files
from cryomend.evaluation.halves import HalfBand, compare_halves
from cryomend.evaluation.metrics import (
    contrast_to_noise,
    correlation,
    equivalent_number_of_looks,
    psnr,
    scale_to_unit,
    ssim,
)
from cryomend.evaluation.picking import PickSettings, Template, picking_rows, score_picking_files
from cryomend.evaluation.projections import (
    Support,
    compare_projections,
    hold_out_tilts,
    least_supported,
    local_support,
)
from cryomend.evaluation.report import report_files, write_restoration_report
from cryomend.evaluation.rotation_grid import rotation_grid
from cryomend.evaluation.suggest import draw_areas, suggest_areas, suggest_areas_files
from cryomend.evaluation.template_matching import find_peaks, match_template, score_picks
from cryomend.evaluation.verdict import Check, check_rows

__all__ = [
    "Area",
    "Areas",
    "Check",
    "HalfBand",
    "PickSettings",
    "Support",
    "Template",
    "best_gaussian",
    "check_rows",
    "choose_areas",
    "compare_halves",
    "compare_projections",
    "cone_mask",
    "contrast_to_noise",
    "correlation",
    "draw_areas",
    "equivalent_number_of_looks",
    "evaluate_files",
    "evaluate_half_files",
    "evaluate_halves",
    "evaluate_volume",
    "find_peaks",
    "fourier_correlation",
    "fourier_rows",
    "fourier_shell_correlation",
    "fsc_crossing",
    "hold_out_tilts",
    "least_supported",
    "local_support",
    "match_template",
    "mean_fsc",
    "named_areas",
    "picking_rows",
    "psnr",
    "read_areas",
    "report_files",
    "rotation_grid",
    "scale_to_unit",
    "score_picking_files",
    "score_picks",
    "shell_resolution",
    "spectral_snr",
    "ssim",
    "suggest_areas",
    "suggest_areas_files",
    "summary_rows",
    "write_restoration_report",
]
