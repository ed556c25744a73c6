"""`{command-help} predict`: what `sagdeploy predict --help` prints, asked of the program itself."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.testing import CliRunner

from sagdeploy.cli.app import app

WIDTH = 88


class CommandHelp(SphinxDirective):
    """The help of a command, or of the program without one."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        arguments = [*self.arguments, "--help"]
        shown = CliRunner().invoke(app, arguments, prog_name="sagdeploy", terminal_width=WIDTH)
        if shown.exit_code:
            raise self.error(f"sagdeploy {' '.join(arguments)}: {shown.output}")
        return [nodes.literal_block(shown.output, shown.output, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
