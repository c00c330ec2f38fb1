"""Draws networks from what people use, with every option now and then, and small enough for a test."""

import random
from collections.abc import Callable
from typing import Any

from resnetrt.benchmarks.studies.network_fuzz.build import LAYOUTS, Unbuildable, build_network, shape_after
from resnetrt.benchmarks.studies.network_fuzz.layers import ACTIVATIONS, NORMS, Shape
from resnetrt.benchmarks.studies.network_fuzz.mixers import TRAPS
from resnetrt.benchmarks.studies.network_fuzz.spec import Layer, NetworkSpec

_TRIES = 60
Draw = Callable[[random.Random, Shape, int], list[Layer]]


def draw_network(seed: int) -> NetworkSpec:
    """The network of a seed; always one that builds."""
    for attempt in range(_TRIES):
        rng = random.Random(f"{seed}.{attempt}")
        spec = _draw(rng, seed)
        try:
            build_network(spec)
        except Unbuildable:
            continue
        return spec
    raise Unbuildable(f"seed {seed}: no network in {_TRIES} tries")


def _draw(rng: random.Random, seed: int) -> NetworkSpec:
    mode = rng.choice(("RGB", "RGB", "L"))
    size = rng.choice(((16, 16), (24, 24), (32, 32), (32, 32), (20, 28), (33, 17), (24, 40), (48, 48)))
    shape: Shape = (3 if mode == "RGB" else 1, *size)
    layers = [] if rng.random() < 0.15 else _stem(rng, shape)
    try:
        shape = shape_after(layers, shape)
    except Unbuildable:
        layers = []
    for _ in range(rng.randint(2, 7)):
        more, shape = draw_layers(rng, shape, 0)
        layers += more
    head: Layer = {
        "kind": rng.choice(("pool", "pool", "mean", "flatten", "view", "conv", "max", "both", "generalized", "window"))
    }
    if rng.random() < 0.3:
        head |= {"hidden": 12, "norm": rng.random() < 0.5}
    if rng.random() < 0.15:
        head["last"] = rng.choice(("log_softmax", "softmax", "scaled"))
    if rng.random() < 0.3:
        head["classes"] = rng.choice((2, 3, 11))
    return NetworkSpec(
        seed=seed,
        layers=tuple(layers),
        mode=mode,
        size=size,
        head=head,
        layout=rng.choice(("nested", *LAYOUTS)),
        statistics=rng.choice(("plain", "plain", "spread", "odd")),
        frames=rng.random() < 0.3,
    )


def draw_layers(rng: random.Random, shape: Shape, depth: int) -> tuple[list[Layer], Shape]:
    """A few layers that fit `shape`, and their output shape; none if nothing that was drawn fits."""
    weights, draws = zip(*_DRAWS.values(), strict=True)
    for _ in range(8):
        draw = rng.choices(draws, weights)[0]
        layers = draw(rng, shape, depth)
        try:
            return layers, shape_after(layers, shape)
        except Unbuildable:
            continue
    return [], shape


def _body(rng: random.Random, shape: Shape, depth: int, most: int = 3) -> list[Layer]:
    layers: list[Layer] = []
    for _ in range(rng.randint(1, most)):
        more, shape = draw_layers(rng, shape, depth + 1)
        layers += more
    return layers or [{"op": "conv", "out": shape[0]}]


def _keeping(rng: random.Random, shape: Shape, depth: int) -> list[Layer]:
    """A body that keeps its shape; a convolution is added if necessary."""
    layers = _body(rng, shape, depth, 2)
    for _ in range(6):
        if _shape_of(layers, shape) == shape:
            return layers
        layers = _body(rng, shape, depth, 2)
    kernel = rng.choice((1, 3, 5))
    return [{"op": "conv", "out": shape[0], "kernel": [kernel] * 2, "padding": [kernel // 2] * 2}, *_norm_act(rng)]


def _sized(rng: random.Random, shape: Shape, depth: int) -> list[Layer]:
    """A body that keeps height and width."""
    for _ in range(6):
        layers = _body(rng, shape, depth, 2)
        output = _shape_of(layers, shape)
        if output is not None and output[1:] == shape[1:]:
            return layers
    return [{"op": "conv", "out": 8, "kernel": [3, 3], "padding": [1, 1]}, *_norm_act(rng)]


def _shape_of(layers: list[Layer], shape: Shape) -> Shape | None:
    try:
        return shape_after(layers, shape)
    except Unbuildable:
        return None


def _stem(rng: random.Random, shape: Shape) -> list[Layer]:
    kernel, stride = rng.choice((3, 3, 5, 7, 4)), rng.choice((1, 1, 2))
    stem: Layer = {"op": "conv", "out": rng.choice((8, 12, 16)), "kernel": [kernel] * 2, "stride": [stride] * 2}
    stem |= {"padding": [kernel // 2] * 2, "bias": rng.random() < 0.3}
    layers = [stem, *_norm_act(rng)]
    if min(shape[1:]) > 20 and rng.random() < 0.3:
        layers.append({"op": "pool", "kernel": [3, 3], "padding": [1, 1]})
    return layers


def _norm_act(rng: random.Random) -> list[Layer]:
    layers: list[Layer] = []
    if rng.random() < 0.8:
        layers.append({"op": "norm", "kind": "batch"} if rng.random() < 0.7 else _norm(rng, (8, 8, 8), 0)[0])
    if rng.random() < 0.85:
        layers.append({"op": "act"} if rng.random() < 0.5 else _act(rng, (8, 8, 8), 0)[0])
    return layers


def _conv(rng: random.Random, shape: Shape, _depth: int) -> list[Layer]:
    layer: Layer = {"op": "conv", "out": rng.choice((4, 8, 12, 16, 24, shape[0], shape[0]))}
    layer |= rng.choice((_windowed, _windowed, _windowed, _depthwise, _same))(rng, shape)
    layer["bias"] = rng.random() < 0.4
    if rng.random() < 0.1:
        layer["mode"] = rng.choice(("reflect", "replicate", "circular"))
    if rng.random() < 0.12:
        layer["weights"] = rng.choice(("weight_norm", "weight_norm_hook", "spectral_norm", "standardized"))
    elif rng.random() < 0.05:
        layer["functional"] = True
    return [layer, *_norm_act(rng)]


_KERNELS = (
    [1, 1],
    [1, 1],
    *[[3, 3]] * 5,
    [5, 5],
    [7, 7],
    [1, 3],
    [3, 1],
    [1, 7],
    [5, 3],
    [2, 3],
    [2, 2],
    [4, 4],
    [2, 1],
)


def _windowed(rng: random.Random, _shape: Shape) -> Layer:
    kernel, dilation = rng.choice(_KERNELS), [1, 1]
    if rng.random() < 0.12 and max(kernel) > 1:
        dilation = rng.choice(([2, 2], [2, 1], [3, 3]))
    padding = [d * (k // 2) for d, k in zip(dilation, kernel, strict=True)]
    if rng.random() < 0.2:
        padding = [rng.randint(0, 2), rng.randint(0, 2)]
    stride = rng.choice(([2, 2], [2, 2], [2, 1], [1, 2], [3, 3])) if rng.random() < 0.25 else [1, 1]
    groups = rng.choice((2, 4)) if rng.random() < 0.15 else 1
    return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def _depthwise(rng: random.Random, shape: Shape) -> Layer:
    return _windowed(rng, shape) | {"groups": "depthwise", "out": shape[0] * rng.choice((1, 1, 2))}


def _same(rng: random.Random, shape: Shape) -> Layer:
    return _windowed(rng, shape) | {"padding": rng.choice(("same", "same", "valid")), "stride": [1, 1]}


def _separable(rng: random.Random, shape: Shape, _depth: int) -> list[Layer]:
    """Expand, depthwise, project (MobileNet)."""
    wide = min(48, shape[0] * rng.choice((1, 2, 4)))
    kernel, stride = rng.choice((3, 5)), rng.choice((1, 1, 2))
    deep: Layer = {"op": "conv", "out": wide, "kernel": [kernel] * 2, "padding": [kernel // 2] * 2}
    deep |= {"groups": "depthwise", "stride": [stride] * 2, "bias": False}
    expand: Layer = {"op": "conv", "out": wide, "bias": False}
    project: Layer = {"op": "conv", "out": rng.choice((shape[0], 12)), "bias": False}
    batch: Layer = {"op": "norm"}
    act: Layer = {"op": "act", "kind": rng.choice(("relu6", "hardswish", "silu", "relu"))}
    return [expand, batch, act, deep, batch, act, project, batch]


def _transposed(rng: random.Random, shape: Shape, _depth: int) -> list[Layer]:
    stride = rng.choice(([2, 2], [2, 2], [1, 1], [2, 1], [3, 2]))
    layer: Layer = {"op": "conv_transpose", "out": rng.choice((6, 8, shape[0])), "stride": stride}
    layer["kernel"] = rng.choice(([2, 2], [3, 3], [4, 4], [3, 2]))
    layer["padding"] = rng.choice(([0, 0], [1, 1], [1, 0]))
    if rng.random() < 0.3:
        layer["output_padding"] = [min(1, edge - 1) for edge in stride]
    if rng.random() < 0.2:
        layer["groups"] = 2
    if rng.random() < 0.1:
        layer["dilation"] = [2, 2]
    layer["bias"] = rng.random() < 0.5
    return [layer, *_norm_act(rng)]


def _norm(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    layer: Layer = {"op": "norm", "kind": rng.choice(NORMS)}
    if rng.random() < 0.2:
        layer["eps"] = rng.choice((1e-3, 1e-6, 0.1))
    return [layer]


def _act(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    layer: Layer = {"op": "act", "kind": rng.choice(ACTIVATIONS)}
    if rng.random() < 0.4:
        layer["functional"] = True
    return [layer]


def _pool(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    if rng.random() < 0.2:
        size = rng.choice(([1, 1], [2, 2], [3, 3], [4, 2], [7, 7], [1, 4], [0, 3], [5, 5]))
        return [{"op": "adaptive_pool", "kind": rng.choice(("avg", "max")), "size": size}]
    if rng.random() < 0.1:
        return [{"op": "blur"}]
    layer: Layer = {"op": "pool", "kind": rng.choice(("max", "max", "avg", "avg", "avg", "lp"))}
    layer["kernel"] = rng.choice(([2, 2], [3, 3], [3, 3], [3, 2], [1, 2], [5, 5]))
    layer["stride"] = rng.choice(([2, 2], [2, 2], [1, 1], [2, 1], [3, 3]))
    if layer["kind"] != "lp" and rng.random() < 0.6:
        layer["padding"] = [rng.randint(0, edge // 2) for edge in layer["kernel"]]
    layer["ceil"] = rng.random() < 0.4
    if layer["kind"] == "avg":
        layer["include_pad"] = rng.random() < 0.5
        if rng.random() < 0.15:
            layer["divisor"] = rng.choice((3, 5))
    if layer["kind"] == "max" and rng.random() < 0.15:
        layer["dilation"] = [2, 2]
    return [layer]


def _pad(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    layer: Layer = {"op": "pad", "mode": rng.choice(("constant", "constant", "reflect", "replicate", "circular"))}
    layer["amounts"] = [rng.choice((0, 1, 1, 2, 3)) for _ in range(4)]
    if layer["mode"] == "constant":
        layer["value"] = rng.choice((0.0, 0.0, 0.5, -1.0))
        if rng.random() < 0.3:
            layer["amounts"] = [rng.choice((-1, -2, 0, 1)) for _ in range(4)]
        if rng.random() < 0.3:
            layer["amounts"] = [*layer["amounts"], rng.choice((0, 2, -1)), rng.choice((0, 1, 4))]
    elif rng.random() < 0.1:
        layer["amounts"] = [-1, 1, 0, 0]
    return [layer]


def _cut(rng: random.Random, shape: Shape, _depth: int) -> list[Layer]:
    kind = rng.choice(("slice", "slice", "slice", "flip", "roll", "select", "narrow"))
    axis = rng.choice((1, 1, 2, 3))
    layer: Layer = {"op": "cut", "kind": kind, "axis": axis}
    if kind == "slice":
        edge = shape[axis - 1]
        layer["start"] = rng.choice((0, 1, -max(1, edge // 2), None))
        layer["stop"] = rng.choice((None, None, -1, max(2, edge // 2), edge + 5))
        layer["step"] = rng.choice((1, 1, 2, 3))
    if kind == "select":
        layer["step"] = rng.choice((1, 2))
    return [layer]


def _reshape(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    kinds = (
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "channel_shuffle_view", "space_to_depth"),
        *("swap", "swap_channels", "through_3d", "mix", "contiguous", "focus"),
    )
    layer: Layer = {"op": "reshape", "kind": rng.choice(kinds), "by": rng.choice((2, 2, 2, 4))}
    return [layer]


def _resize(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    layer: Layer = {"op": "resize", "mode": rng.choice(("nearest", "nearest", "bilinear", "bilinear", "bicubic", "area", "nearest-exact"))}  # fmt: skip  # noqa: E501
    if rng.random() < 0.5:
        layer["size"] = [rng.choice((4, 7, 10, 12)), rng.choice((4, 7, 10, 12))]
    else:
        layer["factor"] = rng.choice((2.0, 2.0, 0.5, 1.5, 0.7))
    if layer["mode"] in ("bilinear", "bicubic"):
        layer["align"] = rng.random() < 0.4
    return [layer]


_ARITHMETIC = (
    *("scale", "buffers", "remembers", "coordinates", "times", "rescale"),
    *("negative", "centre", "dropout", "identity", "inplace", "crelu"),
    *("repeat", "double", "sum_of_squares", "mask", "topmost", "cumulative"),
)


def _arithmetic(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    return [{"op": "arithmetic", "kind": rng.choice((*_ARITHMETIC, *_ARITHMETIC, "normalize_input"))}]


def _mixer(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    if rng.random() < 0.4:
        return [{"op": "attention", "fused": rng.random() < 0.5}]
    return [{"op": "mlp", "over_pixels": rng.random() < 0.3, "residual": rng.random() < 0.6}]


def _trap(rng: random.Random, _shape: Shape, _depth: int) -> list[Layer]:
    return [{"op": "trap", "kind": rng.choice(TRAPS)}]


def _block(draw: Callable[[random.Random, Shape, int], Layer]) -> Draw:
    """A block; blocks inside blocks are nested at most two deep."""

    def drawn(rng: random.Random, shape: Shape, depth: int) -> list[Layer]:
        if depth >= 2:
            return _conv(rng, shape, depth)
        return [draw(rng, shape, depth)]

    return drawn


def _options(rng: random.Random, **choices: tuple[Any, ...]) -> dict[str, Any]:
    return {name: rng.choice(values) for name, values in choices.items()}


def _residual(rng: random.Random, shape: Shape, depth: int) -> Layer:
    body = _keeping(rng, shape, depth) if rng.random() < 0.6 else _body(rng, shape, depth, 2)
    choices = {"shortcut": ("auto", "normed", "pad", "cat"), "act": (False, True), "swapped": (False, True)}
    join = rng.choice(("add",) * 6 + ("subtract", "gate", "multiply", "maximum"))
    return {"op": "residual", "join": join, **_options(rng, **choices), "body": body}


def _branches(rng: random.Random, shape: Shape, depth: int) -> Layer:
    join = rng.choice(("cat", "cat", "cat", "add", "stack", "interleave", "maximum"))
    make = _sized if join == "cat" else _keeping
    return {"op": "branches", "join": join, "bodies": [make(rng, shape, depth) for _ in range(rng.randint(2, 3))]}


def _split(rng: random.Random, shape: Shape, depth: int) -> Layer:
    half: Shape = (max(1, shape[0] // 2), *shape[1:])
    body = _sized(rng, half, depth)
    return {"op": "split_channels", **_options(rng, kind=("chunk", "split", "slices")), "body": body}


def _repeat(rng: random.Random, shape: Shape, depth: int) -> Layer:
    options = _options(rng, times=(2, 2, 3), activated=(False, True))
    return {"op": "repeat", **options, "body": _keeping(rng, shape, depth)}


def _tiles(rng: random.Random, shape: Shape, depth: int) -> Layer:
    count = rng.choice((2, 4))
    strip: Shape = (shape[0], max(1, shape[1] // count), shape[2])
    return {"op": "tiles", "count": count, **_options(rng, mixing=(False, True)), "body": _sized(rng, strip, depth)}


def _squeeze_excite(rng: random.Random, _shape: Shape, _depth: int) -> Layer:
    gates = ("sigmoid", "hardsigmoid", "tanh")
    return {"op": "squeeze_excite", **_options(rng, gate=gates, linear=(False, True))}


def _passes(rng: random.Random, shape: Shape, depth: int) -> Layer:
    return {"op": "passes", **_options(rng, checkpointed=(False, False, True)), "body": _body(rng, shape, depth, 2)}


def _pyramid(rng: random.Random, shape: Shape, depth: int) -> Layer:
    small: Shape = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2))
    add = rng.random() < 0.5
    body = _keeping(rng, small, depth) if add else _body(rng, small, depth, 2)
    return {"op": "pyramid", "add": add, **_options(rng, mode=("nearest", "bilinear")), "body": body}


_DRAWS: dict[str, tuple[float, Draw]] = {
    "conv": (12, _conv),
    "separable": (2, _separable),
    "transposed": (1.5, _transposed),
    "norm": (1.5, _norm),
    "act": (1.5, _act),
    "pool": (3, _pool),
    "pad": (1.2, _pad),
    "cut": (1.5, _cut),
    "reshape": (1.8, _reshape),
    "resize": (1, _resize),
    "arithmetic": (2, _arithmetic),
    "mixer": (0.8, _mixer),
    "trap": (0.12, _trap),
    "residual": (4, _block(_residual)),
    "dense": (1.2, _block(lambda *drawn: {"op": "dense", "body": _sized(*drawn)})),
    "branches": (1.2, _block(_branches)),
    "split_channels": (0.8, _block(_split)),
    "repeat": (0.8, _block(_repeat)),
    "tiles": (0.7, _block(_tiles)),
    "each_channel": (
        0.3,
        _block(lambda rng, shape, depth: {"op": "each_channel", "body": _sized(rng, (1, *shape[1:]), depth)}),
    ),
    "squeeze_excite": (1, _block(_squeeze_excite)),
    "passes": (0.4, _block(_passes)),
    "pyramid": (0.6, _block(_pyramid)),
}
