"""The commands, in the order of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One command. Its module loads when it is called, so that --help and completion are instant."""

    function: str  # "module:function" in this room
    example: str  # that runs: the last line of its help
    summary: str  # the first sentence of the function's docstring, for the list of commands


# in the order of the pipeline
COMMANDS: dict[str, Row] = {
    "prune": Row(
        "pruning:prune",
        "idp-deploy prune model.pt --target 0.9",
        "Train with soft masks until a share of the weights is zero, then harden them.",
    ),
    "harden": Row(
        "pruning:harden",
        "idp-deploy harden model.soft.pt",
        "Turn soft masks into exact zeros; with a task, batch norm is recalibrated.",
    ),
    "shrink": Row(
        "shrinking:shrink",
        "idp-deploy shrink model.channels.pt",
        "Take out channels that are zero: a smaller dense model with the same outputs, faster on every runtime.",
    ),
    "quantize": Row(
        "quantizing:quantize",
        "idp-deploy quantize model.pruned.pt --scheme int8-weights",
        "Store weights in fewer bits; zeros stay exactly zero, and layers that would suffer stay float.",
    ),
    "export": Row(
        "exporting:export",
        "idp-deploy export model.pruned.pt --to onnx",
        "Write files with sparse weight encodings and prove each against the model.",
    ),
    "verify": Row(
        "verifying:verify",
        "idp-deploy verify model.pruned.onnx model.pruned.pt",
        "Run the file here, compare it with the model, and prove the zeros from the file.",
    ),
    "inspect": Row(
        "inspecting:inspect",
        "idp-deploy inspect model.pruned.onnx",
        "Per weight: shape, zeros, encoding, bytes and the bound; in total: size and what a download takes.",
    ),
    "restore": Row(
        "restoring:restore",
        "idp-deploy restore model.slim.onnx",
        "Store the zeros of an ONNX or TFLite file sparse again, after a tool wrote them out; needs no model.",
    ),
    "simulate": Row(
        "simulating:simulate",
        "idp-deploy simulate model.pruned.onnx --target pixel-4",
        "Say how long a file takes on a device, with an interval, and what runs sparse there.",
    ),
    "diff": Row(
        "diffing:diff",
        "idp-deploy diff model.slim.onnx model.pruned.onnx --target pixel-4",
        "Say what differs between two files: size, zeros, estimated latency, and the layers that changed.",
    ),
    "check": Row(
        "check:check",
        "idp-deploy check model.pruned.onnx --target pixel-4",
        "Gate files on size and latency budgets per target.",
    ),
    "run": Row(
        "running:run", "idp-deploy run", "Prune, harden, quantize, export, verify, simulate and gate, as configured."
    ),
    "compare": Row(
        "comparing:compare",
        "idp-deploy compare model.pt --methods idp,gmp --seeds 2",
        "Prune with several methods on your own task and compare hardened accuracy, seed by seed.",
    ),
    "targets": Row(
        "environment:targets",
        "idp-deploy targets pixel-4",
        "List the device profiles, show one with its sources, or write one for a device of your own.",
    ),
    "init": Row("beginning:init", "idp-deploy init", "Look around in this folder and write a configuration that runs."),
    "new": Row(
        "beginning:new",
        "idp-deploy new my-project",
        "Write a whole small project that runs: model, task, trained weights, configuration, CI.",
    ),
    "schema": Row(
        "schemas:schema",
        "idp-deploy schema configuration -o idp-deploy.schema.json",
        "Print a JSON Schema: for editors that complete idp-deploy.toml, and programs that read reports.",
    ),
    "doctor": Row("environment:doctor", "idp-deploy doctor", "Print versions, and what is missing for which command."),
}
