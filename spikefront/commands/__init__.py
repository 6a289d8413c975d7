"""One module per command; ``--help`` lists them in this order."""

from spikefront.commands.check import check
from spikefront.commands.compare import compare
from spikefront.commands.convert import convert
from spikefront.commands.diagnose import diagnose
from spikefront.commands.diff import diff
from spikefront.commands.evaluate import evaluate
from spikefront.commands.export import export
from spikefront.commands.pareto_dp import pareto_dp
from spikefront.commands.profile import profile
from spikefront.commands.report import report
from spikefront.commands.search import search
from spikefront.commands.sensitivity import sensitivity
from spikefront.commands.status import status
from spikefront.commands.storage import storage_group
from spikefront.commands.verify import verify
from spikefront.commands.worker import worker

COMMANDS = (
    search,
    worker,
    status,
    storage_group,
    report,
    compare,
    diff,
    export,
    convert,
    verify,
    check,
    evaluate,
    diagnose,
    profile,
    sensitivity,
    pareto_dp,
)
