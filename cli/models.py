"""`resnetrt models`: the registered networks and their costs."""

from typing import TYPE_CHECKING, Any

import click

from resnetrt.cli.output import emit_json, print_table

if TYPE_CHECKING:
    from torch.nn import Module

    from resnetrt.models import Definition, LayerCost, ResNet


@click.command("models")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(name: str | None, as_json: bool) -> None:
    """Definitions: depth, blocks, parameters, GMACs; with NAME also stage by stage.

    One GMAC is 1e9 multiply-accumulates of convolutions and linear layers for one image of the input size.
    """
    from resnetrt.models import DEFINITIONS, definition

    chosen = [definition(name)] if name else list(DEFINITIONS.values())
    records = [_record(item, stages=name is not None) for item in chosen]
    if as_json:
        emit_json({"models": records})
        return
    header = ("model", "depth", "block", "blocks", "shortcut", "parameters", "GMACs", "input", "weights")
    print_table("", header, map(_row, records))
    if name:
        stages = ("stage", "blocks", "output", "parameters", "GMACs")
        print_table(f"{name}, stage by stage", stages, map(_stage_row, records[0]["stages"]))


def _record(definition: "Definition", stages: bool) -> dict[str, Any]:
    import torch

    from resnetrt.models import cost

    with torch.device("meta"):
        network = definition.build()
    totals, config = cost(network, definition.input_shape), definition.config
    record = {
        "name": definition.name,
        "depth": config.depth,
        "block": config.block,
        "blocks": list(config.blocks),
        "shortcut": config.shortcut,
        "parameters": totals.parameters,
        "gmacs": round(totals.gmacs, 6),
        "input_shape": list(definition.input_shape),
        "classes": config.num_classes,
        "pretrained": definition.pretrained is not None,
    }
    if stages:
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in _stages(network)}
        record["stages"] = [_stage(name, sizes[name], totals.layers, config.blocks) for name in sizes]
    return record


def _stages(network: "ResNet") -> "list[tuple[str, Module]]":
    stages = [(f"stages.{index}", stage) for index, stage in enumerate(network.stages)]
    return [("stem", network.stem), *stages, ("fc", network.fc)]


def _stage(name: str, parameters: int, layers: "tuple[LayerCost, ...]", blocks: tuple[int, ...]) -> dict[str, Any]:
    own = [layer for layer in layers if f"{layer.name}.".startswith(f"{name}.")]
    return {
        "name": name,
        "blocks": blocks[int(name.removeprefix("stages."))] if name.startswith("stages.") else None,
        "output_shape": list(own[-1].output_shape),
        "parameters": parameters,
        "gmacs": round(sum(layer.macs for layer in own) / 1e9, 6),
    }


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["name"],
        str(record["depth"]),
        record["block"],
        "-".join(map(str, record["blocks"])),
        record["shortcut"],
        f"{record['parameters']:,}",
        f"{record['gmacs']:.3f}",
        "x".join(map(str, record["input_shape"])),
        "embedded" if record["pretrained"] else "-",
    )


def _stage_row(stage: dict[str, Any]) -> tuple[str, ...]:
    size = "x".join(map(str, stage["output_shape"]))
    return (stage["name"], str(stage["blocks"] or "-"), size, f"{stage['parameters']:,}", f"{stage['gmacs']:.3f}")
