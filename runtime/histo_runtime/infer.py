"""Which of its four ways of working a command line of `histo-infer` means."""

from __future__ import annotations

import click

from histo_runtime.request import Request

_RAY = "ray"


def infer(request: Request) -> None:
    """Carry out a command line: a report of a run that is done, a run on Ray, slides, or a table of patches."""
    if request.table is not None:
        from histo_runtime.report.command import report_only

        report_only(request)
        return
    if not request.patches:
        raise click.UsageError("Missing argument 'PATCHES...'.")
    if request.engine == _RAY:
        from histo_runtime.cluster.command import infer_on_ray

        infer_on_ray(request)
        return
    if request.address is not None or request.actors is not None or request.gpus_per_actor:
        raise click.UsageError("--address, --actors and --gpus-per-actor belong to --engine ray")
    from histo_runtime.labels import check_labels
    from histo_runtime.results import STDOUT
    from histo_runtime.slides.command import infer_slides
    from histo_runtime.sources import check_named

    if request.as_json and request.output == STDOUT:
        raise click.UsageError("--json and -o - both write to stdout: give -o a file")
    check_named(request.patches)
    if request.labels is not None:
        check_labels(request.labels)
    if not infer_slides(request):
        from histo_runtime.infer_patches import infer_patches

        infer_patches(request)
