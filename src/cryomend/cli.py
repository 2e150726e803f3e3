"""The command line: one command per stage, in pipeline order.

Commands parse options, call the stage and print; they hold no science.
"""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Restore cryo-electron tomograms.")
noise_app = typer.Typer(no_args_is_help=True, help="Learn and sample the noise of real tilt series.")

# ---- specimen, acquire, simulate, reconstruct, train ----------------------------------------------

# ---- noise ----------------------------------------------------------------------------------------

app.add_typer(noise_app, name="noise")

# ---- info, restore, sample ------------------------------------------------------------------------

# ---- evaluate, report -----------------------------------------------------------------------------


def main() -> None:
    """Run the command line; errors a user can cause end in one line on stderr and exit code 2."""
    app()
