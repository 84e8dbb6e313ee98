"""An `ExportedNetwork` -> the bytes of an ONNX file with its description in the metadata.

torch.onnx's exporter (torch.export) builds the graph and folds BatchNorm into the convolutions; ONNX's checker verifies
it. Opset 20 is read by onnxruntime 1.17 (January 2024) and later.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

import torch

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Errors import UsageError
from MLPipeline.export.Network import INPUT, KEY, ExportedNetwork, example_input

OPSET = 20
_MAX_BYTES = 2**31 - 2**20  # protobuf, which ONNX files are made of, cannot hold 2 GB
_OPERATOR = re.compile(r"(?:OpOverload\(op='|torch\.ops\.)([\w.]+)")


def onnx_bytes(network: ExportedNetwork, card: ModelCard, about: str) -> bytes:
    """Return the content of an ONNX file that computes `network` in fp32 for any number of images at once.

    Raises:
        UsageError: the network has an operation that ONNX lacks, or more than 2 GB of weights.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _MAX_BYTES:
        what = f"--format onnx: the weights of {card.model} take {size / 2**30:.1f} GB; an ONNX file holds 2 GB"
        raise UsageError(what, "Use --format pt2")
    import onnx

    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                network.eval(),
                (example_input(card),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=network.outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # the exporter has errors of its own for every step
            raise not_exportable("onnx", card.model, error) from error
    assert program is not None
    graph = program.model_proto
    for node in (*graph.graph.node, *graph.graph.input, *graph.graph.output):
        del node.metadata_props[:]  # where in torch's code each node comes from: half of the file of a small network
        node.ClearField("doc_string")
    onnx.helper.set_model_props(graph, {KEY: about})
    onnx.checker.check_model(graph, full_check=True)
    return graph.SerializeToString()


def not_exportable(format_name: str, model: str, error: Exception) -> UsageError:
    """Return the error that names the operation for which a format has no counterpart."""
    texts: list[str] = []
    cause: BaseException | None = error  # from the exporter's advice to the root cause
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = next((match[1] for text in reversed(texts) if (match := _OPERATOR.search(text))), "")
    reason = found or (texts[-1].strip().splitlines() or [type(error).__name__])[0]
    what = f"--format {format_name}: {model} has an operation that cannot be exported: {reason[:200]}"
    return UsageError(what, "Replace that layer, or export another model")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter, which reports its progress and its optional packages on the console."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
