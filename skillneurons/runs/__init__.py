"""The main job and the findings as runs in folders: resumable, in many processes, reported."""

from skillneurons.findings.record import ReproduceSettings as ReproduceSettings
from skillneurons.findings.run_agreement import RunComparison as RunComparison
from skillneurons.runs._find import DEFAULTS as DEFAULTS
from skillneurons.runs._find import FindResult as FindResult
from skillneurons.runs._find import FindSettings as FindSettings
from skillneurons.runs._find import find as find
from skillneurons.runs._open_run import OpenedRun as OpenedRun
from skillneurons.runs._open_run import open_run as open_run
from skillneurons.runs._reproduce import reproduce as reproduce
from skillneurons.runs._summary import summary as summary
from skillneurons.runs.finished_runs._compare import compare_runs as compare_runs
from skillneurons.runs.finished_runs._explore import explore as explore
from skillneurons.runs.finished_runs._perturb import PerturbedRun as PerturbedRun
from skillneurons.runs.finished_runs._perturb import perturb_run as perturb_run
from skillneurons.runs.folder import RunFolder as RunFolder
from skillneurons.runs.folder import RunFolderError as RunFolderError
from skillneurons.runs.folder import read_settings as read_settings
from skillneurons.runs.hub import RunFiles as RunFiles
from skillneurons.runs.hub import pull_run as pull_run
from skillneurons.runs.hub import push_run as push_run
from skillneurons.runs.jobs import run_jobs as run_jobs
from skillneurons.runs.jobs import slurm_executor as slurm_executor
from skillneurons.runs.report import write_report as write_report
from skillneurons.runs.trials import Trial as Trial
from skillneurons.runs.trials import run_trial as run_trial
from skillneurons.runs.trials import run_trials as run_trials
