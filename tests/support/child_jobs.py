"""`mswitch`, but the jobs of records are stand-ins: `job_child` in place of mswitch's commands."""

import sys

import job_child

from mswitch.flows.cli.commands import jobs
from mswitch.flows.cli.main import main
from mswitch.flows.jobs import record

if __name__ == "__main__":
    record.MSWITCH = (sys.executable, job_child.__file__)
    jobs.MSWITCH = (sys.executable, __file__)
    sys.exit(main())
