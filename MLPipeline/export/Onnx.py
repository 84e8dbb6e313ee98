"""An `ExportedNetwork` -> the bytes of an ONNX file with its description in the metadata, checked by ONNX itself."""

from __future__ import annotations

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Errors import UsageError
from MLPipeline.export.Network import KEY, ExportedNetwork
from MLPipeline.export.OnnxGraph import onnx_graph, reason_of

_MAX_BYTES = 2**31 - 2**20  # protobuf, which ONNX files are made of, cannot hold 2 GB


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

    try:
        graph = onnx_graph(network, card.image_size, network.outputs)
    except Exception as error:  # the exporter has errors of its own for every step
        raise not_exportable("onnx", card.model, error) from error
    onnx.helper.set_model_props(graph, {KEY: about})
    onnx.checker.check_model(graph, full_check=True)
    return graph.SerializeToString()


def not_exportable(format_name: str, model: str, error: Exception) -> UsageError:
    """Return the error that names the operation for which a format has no counterpart."""
    what = f"--format {format_name}: {model} has an operation that cannot be exported: {reason_of(error)}"
    return UsageError(what, "Replace that layer, or export another model")
