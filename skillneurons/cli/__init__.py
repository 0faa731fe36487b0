"""The command line."""

from skillneurons.cli.commands import app as app
