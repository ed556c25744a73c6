"""`python -m sagdeploy` is `sagdeploy`."""

from sagdeploy.cli.app import main

main()
