"""Stage 8: score a restored volume and write its report.

In: a restored volume, and a truth, named areas or the raw volume. Out: scores and an HTML page.
"""

from cryomend.evaluation.areas import Area, Areas, choose_areas, named_areas, read_areas
from cryomend.evaluation.baseline import best_gaussian
from cryomend.evaluation.evaluate import evaluate_files, evaluate_volume, summary_rows
from cryomend.evaluation.fsc import (
    fourier_correlation,
    fourier_shell_correlation,
    fsc_crossing,
    mean_fsc,
    shell_resolution,
)
from cryomend.evaluation.halves import HalfBand, compare_halves
from cryomend.evaluation.metrics import (
    contrast_to_noise,
    correlation,
    equivalent_number_of_looks,
    psnr,
    scale_to_unit,
    ssim,
)
from cryomend.evaluation.projections import (
    Support,
    compare_projections,
    hold_out_tilts,
    least_supported,
    local_support,
)
from cryomend.evaluation.report import report_files, write_restoration_report
from cryomend.evaluation.verdict import Check, check_rows

__all__ = [
    "Area",
    "Areas",
    "Check",
    "HalfBand",
    "Support",
    "best_gaussian",
    "check_rows",
    "choose_areas",
    "compare_halves",
    "compare_projections",
    "contrast_to_noise",
    "correlation",
    "equivalent_number_of_looks",
    "evaluate_files",
    "evaluate_volume",
    "fourier_correlation",
    "fourier_shell_correlation",
    "fsc_crossing",
    "hold_out_tilts",
    "least_supported",
    "local_support",
    "mean_fsc",
    "named_areas",
    "psnr",
    "read_areas",
    "report_files",
    "scale_to_unit",
    "shell_resolution",
    "ssim",
    "summary_rows",
    "write_restoration_report",
]
