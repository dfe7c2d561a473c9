"""All that Accrue asks of TensorRT, by its Python API.

TensorRT and TensorRT-RTX have the same one, so every function takes the module as a value. The
module itself is never imported at the top of a file: it is optional and slow to load.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from accrue.errors import BundleError, Cancelled, EngineError
from accrue.vision.engines.key import RTX, TENSORRT, Profile

IMAGE, EMBEDDING = "image", "embedding"
MODULES = {TENSORRT: "tensorrt", RTX: "tensorrt_rtx"}
LEAST_MAJOR = 10  # from it on a network is strongly typed, so that precision lives in the ONNX
Step = Callable[[str, int, int], None]  # what is done, steps done, steps in all


@dataclass(frozen=True)
class Tensor:
    """Of a network: name, type in TensorRT's words, shape with -1 for the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A built engine as bytes, and what the parsed network was.

    Attributes:
        content: the serialised engine.
        inputs, outputs: of the parsed network.
        profile: (least, best, most) shape of the input, as TensorRT took it.
        flags: what the builder was told, by name.
    """

    content: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profile: tuple[tuple[int, ...], ...]
    flags: dict[str, Any] = field(default_factory=dict)


def load_module(flavour: str) -> Any:
    """``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        EngineError: it is not installed, or too old.
    """
    name = MODULES[flavour]
    try:
        trt = importlib.import_module(name)
    except ImportError as error:
        raise EngineError(
            f"{_title(flavour)} cannot be imported: {_one_line(error)}",
            hint=f'pip install "accrue[{"rtx" if flavour == RTX else "tensorrt"}]"'
            + ("" if flavour == RTX else "; on a Jetson it comes with JetPack"),
            expected=name,
        ) from error
    if flavour == TENSORRT and int(trt.__version__.split(".")[0]) < LEAST_MAJOR:
        raise EngineError(
            f"TensorRT is {trt.__version__}; expected {LEAST_MAJOR} or newer",
            hint="it comes with JetPack 6.1 or newer",
            found=trt.__version__,
        )
    return trt


def flags_of(workspace_mib: int) -> dict[str, Any]:
    """What `build` tells the builder, for the engine's key."""
    return {"strongly_typed": True, "workspace_mib": workspace_mib}


def build(
    trt: Any,
    onnx: bytes,
    size: int,
    dim: int,
    *,
    profile: Profile,
    workspace_mib: int,
    step: Step = lambda *_: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Plan:
    """An engine from an encoder's ONNX.

    The network is strongly typed: TensorRT takes the types that stand in the ONNX. No timing cache
    is attached, because with one TensorRT-RTX would ask for a GPU.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        onnx: of the bundle.
        size, dim: side of the input in px, and length of an embedding; checked on the network.
        workspace_mib: most scratch memory of a layer.
        step: told of progress, from whichever thread TensorRT uses.
        cancelled: asked after each step; True ends the build.

    Raises:
        BundleError: TensorRT cannot take the ONNX; names node and operator.
        EngineError: there is no GPU for ``tensorrt``, or it cannot build.
        Cancelled: `cancelled` said so.
    """
    logger = _logger(trt)
    builder = _builder(trt, logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise _refusal(trt, parser)
    inputs = tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs))
    _check(inputs, outputs, size, dim)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    shapes = builder.create_optimization_profile()
    image = (size, size, 3)
    shapes.set_shape(IMAGE, (profile.least, *image), (profile.best, *image), (profile.most, *image))
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"{trt.__name__} refused the batch profile {profile}")
    config.progress_monitor = monitor = _monitor(trt, step, cancelled)
    logger.errors.clear()
    content = builder.build_serialized_network(network, config)
    if monitor.stopped:
        raise Cancelled("the build was stopped; no engine was written")
    if content is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot build the engine: "
            f"{logger.reason() or 'it gave no reason'}",
            hint="with less memory: --workspace 256; or close other programs",
        )
    taken = tuple(tuple(int(n) for n in shape) for shape in shapes.get_shape(IMAGE))
    return Plan(bytes(content), inputs, outputs, taken, flags_of(workspace_mib))


def load(trt: Any, content: bytes) -> Any:
    """The engine of a plan, on the GPU.

    Raises:
        EngineError: TensorRT refuses it; without a driver it always does.
    """
    logger = _logger(trt)
    logger.errors.clear()
    try:
        runtime = trt.Runtime(logger)
    except TypeError:  # the binding's word for a null pointer
        raise EngineError(f"{trt.__name__} finds no GPU: {logger.reason()}") from None
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot load the engine: "
            f"{logger.reason() or 'it gave no reason'}",
            hint="a GPU with its driver is needed; build again with: accrue engine build",
        )
    return engine


def new_context(trt: Any, engine: Any) -> Any:
    """An execution context. TensorRT-RTX compiles its kernels for a shape when it is first used;
    here it does so before it answers, so that a captured graph holds the final ones.

    Raises:
        EngineError: TensorRT makes none; mostly for want of memory.
    """
    if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        config = engine.create_runtime_config()
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        context = engine.create_execution_context(config)
    else:
        context = engine.create_execution_context()
    if context is None:
        raise EngineError(
            f"{trt.__name__} makes no execution context: {_logger(trt).reason() or 'no reason'}",
            hint="is the GPU's memory full?",
        )
    return context


def _title(flavour: str) -> str:
    return "TensorRT-RTX" if flavour == RTX else "TensorRT"


def _strongly_typed(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _builder(trt: Any, logger: Any) -> Any:
    logger.errors.clear()
    try:
        return trt.Builder(logger)
    except TypeError:  # the binding's word for a null pointer
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot build here: "
            f"{logger.reason() or 'no GPU was found'}",
            hint="it builds on the device that will run the engine; TensorRT-RTX needs no GPU",
        ) from None


_LOGGERS: dict[str, Any] = {}


def _logger(trt: Any) -> Any:
    """One for the process: TensorRT ignores every later one."""
    if trt.__name__ in _LOGGERS:
        return _LOGGERS[trt.__name__]

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the errors, so that they can be told, and prints nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

        def reason(self) -> str:
            """The first error, without its place in TensorRT's sources; the rest is its echo."""
            if not self.errors:
                return ""
            cuda = re.search(r"cudaError (\d+): ([^)]*)", self.errors[0])
            return f"{cuda[2]} (cudaError {cuda[1]})" if cuda else self.errors[0]

    return _LOGGERS.setdefault(trt.__name__, Logger())


def _monitor(trt: Any, step: Step, cancelled: Callable[[], bool]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells of the outermost phase, which every build has, and asks whether to go on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self.outer: tuple[str, int] | None = None
            self.inner = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.outer = phase_name, num_steps
                step(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, done: int) -> bool:
            if self.outer is not None and phase_name == self.outer[0]:
                step(phase_name, done + 1, self.outer[1])
            self.stopped = self.stopped or cancelled()
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            if self.outer is not None and phase_name == self.outer[0] and not self.stopped:
                step(phase_name, self.outer[1], self.outer[1])

    return Monitor()


def _refusal(trt: Any, parser: Any) -> BundleError:
    """Why the ONNX was refused, on one line, with node and operator."""
    error = parser.get_error(0)
    operator, name = error.node_operator(), error.node_name()
    reason = error.desc().split("\n")
    # The first line names the node only; the second has what is wrong with it.
    text = reason[1] if reason[0].startswith("Invalid Node") and len(reason) > 1 else reason[0]
    if text == "false":
        text = "it does not support this operator"
    where = f"node {name or f'number {error.node()}'!r} ({operator})" if operator else "the file"
    return BundleError(
        f"{trt.__name__} {trt.__version__} cannot take {where} of the encoder: {_one_line(text)}",
        hint="ONNX Runtime serves it; or export the encoder without that operator",
        node=name,
        operator=operator,
    )


def _tensor(tensor: Any) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name, tuple(int(n) for n in tensor.shape))


def _check(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], size: int, dim: int) -> None:
    wanted_in = (Tensor(IMAGE, "UINT8", (-1, size, size, 3)),)
    wanted_out = (Tensor(EMBEDDING, "FLOAT", (-1, dim)),)
    for what, found, wanted in (("inputs", inputs, wanted_in), ("outputs", outputs, wanted_out)):
        if found != wanted:
            raise BundleError(
                f"the network's {what} are {_listed(found)}; expected {_listed(wanted)}",
                hint="export the bundle again",
                found=_listed(found),
                expected=_listed(wanted),
            )


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.name}: {t.dtype} {t.shape}" for t in tensors) or "none"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
