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
from cryomend.evaluation.metrics import (
    contrast_to_noise,
    correlation,
    equivalent_number_of_looks,
    psnr,
    scale_to_unit,
    ssim,
)
from cryomend.evaluation.report import report_files, write_restoration_report

__all__ = [
    "Area",
    "Areas",
    "best_gaussian",
    "choose_areas",
    "contrast_to_noise",
    "correlation",
    "equivalent_number_of_looks",
    "evaluate_files",
    "evaluate_volume",
    "fourier_correlation",
    "fourier_shell_correlation",
    "fsc_crossing",
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
