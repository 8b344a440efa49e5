"""Refuse what is dangerous in a Keras file, before any loader sees it.

Loading a Keras model can run code of the file's author: `Lambda` layers in legacy HDF5 whatever `safe_mode` says
(CVE-2025-9905), functions and modules named in a `.keras` configuration (CVE-2025-1550), layers that load other files
(`TFSMLayer`, `TorchModuleWrapper`, lookup layers with a vocabulary path), HDF5 links that read other files as weights,
weights in a `.npz`, which older versions of both Kerases unpickle.
So the configuration is read as JSON and held against a list of what image classifiers are made of.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from histo_runtime.errors import ModelFileError

_MODELS = {"Functional", "Model", "Sequential"}
_LAYERS = set(
    "Activation ActivityRegularization AlphaDropout Attention BatchNormalization CenterCrop Conv1D Conv2D"
    " Conv2DTranspose Cropping2D Dense DepthwiseConv2D Dropout ELU EinsumDense Flatten GaussianDropout GaussianNoise"
    " GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D GroupNormalization Identity"
    " InputLayer AveragePooling2D MaxPooling2D AdaptiveAveragePooling2D AdaptiveMaxPooling2D LayerNormalization"
    " LeakyReLU MultiHeadAttention Normalization PReLU Permute RMSNormalization ReLU RepeatVector Rescaling Reshape"
    " Resizing SeparableConv2D Softmax SpatialDropout1D SpatialDropout2D SpectralNormalization ThresholdedReLU"
    " TimeDistributed UnitNormalization UpSampling2D ZeroPadding2D"
    " Add Average Concatenate Dot Maximum Minimum Multiply Subtract"
    " Custom>CustomScaleLayer".split()  # as tf_keras has registered its own, of InceptionResNetV2
)
# Operations of Keras 3 that functional models record as layers: arithmetic, slicing, resizing, activations.
_OPERATIONS = set(
    "Absolute Add Arctan Cast Clip Concatenate Divide Exp ExpandDims GetItem Log Log1p Matmul Max Maximum Mean Min"
    " Minimum Multiply Negative Power Relu Relu6 Reshape Resize Rsqrt Sigmoid Silu Softmax Sqrt Square Squeeze Stack"
    " Subtract Sum Tanh Transpose TrueDivide HardSigmoid HardSilu Gelu Elu LeakyRelu Softplus".split()
)
# Functions of TensorFlow that Keras 2 recorded as TFOpLambda or SlicingOpLambda: arithmetic, slicing, resizing.
_TF_FUNCTIONS = set(
    "__operators__.add __operators__.getitem __operators__.sub __operators__.mul cast clip_by_value concat"
    " expand_dims image.resize math.add math.divide math.exp math.log math.maximum math.minimum math.multiply"
    " math.negative math.pow math.reduce_max math.reduce_mean math.reduce_sum math.rsqrt math.sigmoid math.sqrt"
    " math.square math.subtract math.tanh math.truediv nn.bias_add nn.elu nn.gelu nn.leaky_relu nn.relu nn.relu6"
    " nn.sigmoid nn.silu nn.softmax nn.swish reshape slice squeeze stack strided_slice transpose".split()
)
# Layers of keras.applications (ConvNeXt, InceptionResNetV2): a class of this name elsewhere is its author's code.
_OF_APPLICATIONS = {"CustomScaleLayer", "LayerScale", "StochasticDepth"}
_APPLICATIONS = ("keras.src.applications.", "tf_keras.src.applications.")
_PARTS = set(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform IdentityInitializer LecunNormal LecunUniform Ones"
    " Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros"
    " L1 L1L2 L2 OrthogonalRegularizer MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm"
    " DTypePolicy FloatDTypePolicy Policy PolicyV1"
    " TensorShape __ellipsis__ __keras_tensor__ __numpy__ __slice__ __tensor__ __tuple__ slice tuple".split()
)
_ACTIVATIONS = set(
    "celu elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear log_sigmoid log_softmax mish relu"
    " relu6 selu sigmoid silu softmax softplus softsign swish tanh".split()
)
_CODE = {"Lambda", "__lambda__"}
_FROM_TF = {"TFOpLambda", "SlicingOpLambda"}
# An ONNX file without external data ends at 2 GB; with the two moments of an optimiser that is 6 GB of HDF5.
_LARGEST_ARCHIVE = 6_000_000_000
_LARGEST_RATIO = 50  # trained weights hardly compress; a zip bomb does by a thousand
_RATIO_FROM = 64_000_000  # bytes: below, unpacking does no harm


def refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model configuration that names code, or classes that image classifiers do not need.

    The top-level `compile_config` (losses, metrics) is not read: it is not loaded either. Those of models within are.

    Raises:
        ModelFileError: names the file, the layer and its class.
    """
    for layer, item in _objects({key: value for key, value in config.items() if key != "compile_config"}):
        class_name, module = str(item["class_name"]), item.get("module")
        inner = item.get("config")
        if item.get("compile_config"):
            raise ModelFileError(
                f"{path}: layer {layer!r} is a model that was compiled for itself, and its losses and metrics would be"
                " loaded with it: save the whole model as .h5, which leaves them out"
            )
        if class_name in _CODE:
            raise ModelFileError(
                f"{path}: layer {layer!r} is a Lambda, which is code that would run here:"
                " replace it by a layer of Keras and save again"
            )
        if class_name in _FROM_TF:
            function = str(inner.get("function", "")) if isinstance(inner, Mapping) else ""
            if function not in _TF_FUNCTIONS:
                raise ModelFileError(
                    f"{path}: layer {layer!r} calls the TensorFlow function {function!r}, which is not one of the"
                    " arithmetic, slicing and resizing ones that are opened: replace it by a layer of Keras"
                )
        elif class_name == "function" and not _is_known(class_name, module, inner):
            raise ModelFileError(
                f"{path}: layer {layer!r} uses the function {inner!r}{_of(module)}, which is not one of Keras'"
                " activations: replace it by one of them, or by layers of Keras, and save again"
            )
        elif not _is_known(class_name, module, inner):
            raise ModelFileError(
                f"{path}: layer {layer!r} is of class {class_name!r}{_of(module)}, which is not one of Keras' own for"
                " image classifiers: rebuild the model without it and save again"
            )


def refuse_foreign_storage(path: Path, file: Any) -> None:
    """Refuse an open HDF5 file whose groups or datasets live in other files.

    Raises:
        ModelFileError: an external link, an external or a virtual dataset.
    """
    import h5py

    def refuse(name: str, what: str) -> None:
        raise ModelFileError(f"{path}: {name} is {what}, which reads other files: save the model again in one file")

    stack, seen = [file], set()
    while stack:
        group = stack.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                refuse(f"{group.name}/{name}", "an external link")
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link ends at something that is visited by its hard link
            item = group[name]
            if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                refuse(item.name, "an external or virtual dataset")
            address = h5py.h5o.get_info(item.id).addr
            if isinstance(item, h5py.Group) and address not in seen:
                seen.add(address)  # hard links can form circles
                stack.append(item)


def refuse_hostile_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a `.keras` archive that would unpack outside its folder or without end, or that holds a pickle.

    Raises:
        ModelFileError: a member's path is absolute or climbs, the members unpack to too much, or the weights are
            an `.npz`.
    """
    for name in archive.namelist():
        if name.lower().endswith(".npz"):
            raise ModelFileError(
                f"{path}: its weights are a pickle ({name}), which is code that would run here: save it again by"
                " model.save(...)"
            )
        if "\\" in name or ":" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ModelFileError(f"{path}: its member {name[:80]!r} would be unpacked outside the archive")
    unpacked = sum(item.file_size for item in archive.infolist())
    packed = sum(item.compress_size for item in archive.infolist())
    if unpacked > _LARGEST_ARCHIVE or (unpacked > _RATIO_FROM and unpacked > _LARGEST_RATIO * packed):
        raise ModelFileError(f"{path}: unpacks from {packed:,} to {unpacked:,} bytes: a zip bomb, or no Keras model")


def _is_known(class_name: str, module: Any, inner: Any) -> bool:
    if class_name == "function":  # an activation, written out
        return isinstance(inner, str) and inner in _ACTIVATIONS
    if class_name in _OF_APPLICATIONS and isinstance(module, str) and module.startswith(_APPLICATIONS):
        return True
    # Keras 2 writes no module; Keras 3 names its own ("keras.src.ops.numpy") and Python's for tuples and slices.
    root = module.split(".")[0] if isinstance(module, str) else "keras"
    if root not in ("keras", "tf_keras", "builtins"):
        return False
    return class_name.startswith("Random") or class_name in _MODELS | _LAYERS | _OPERATIONS | _PARTS


def _of(module: Any) -> str:
    return f" of module {module!r}" if isinstance(module, str) else ""


def _objects(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every serialised object with the name of the layer it belongs to."""
    stack: list[tuple[str, Any]] = [("", config)]
    while stack:
        layer, node = stack.pop()
        if isinstance(node, Mapping):
            if "class_name" in node:
                inner = node.get("config")
                name = inner.get("name") if isinstance(inner, Mapping) else None
                layer = str(name or layer)
                yield layer, node
            stack.extend((layer, value) for value in node.values())
        elif isinstance(node, list):
            stack.extend((layer, value) for value in node)
