"""The command line: parse, call, render. The only room that prints."""

from idp_deploy.cli.app import main

__all__ = ["main"]
