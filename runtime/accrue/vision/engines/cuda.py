"""All that Accrue asks of CUDA, by ``cuda-python``: buffers, one stream, one graph a batch size."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from accrue.errors import EngineError
from accrue.vision.engines.trt import EMBEDDING, IMAGE, new_context


class Execution:
    """An engine with its memory on the GPU and its stream.

    Input and output each have one pinned buffer on the host and one on the GPU, of the largest
    batch. With `graphs`, the two batch sizes that come again and again (one frame, and a full
    batch) are captured as CUDA graphs, from the copy to the GPU to the copy back, and then only
    launched. A captured graph needs an execution context of its own, whose shape never changes
    (TensorRT Developer Guide, "CUDA Graphs"); all other sizes share one without a graph.

    Args:
        trt: the module. engine: its ``ICudaEngine``.
        size, dim, most: px, length of an embedding, images in the largest batch.

    Attributes:
        no_graphs: why CUDA graphs are not used; "" where they are.

    Raises:
        EngineError: CUDA refuses.
    """

    def __init__(
        self, trt: Any, engine: Any, size: int, dim: int, most: int, *, graphs: bool = True
    ) -> None:
        self._cuda = _runtime()
        self._trt, self._engine = trt, engine
        self._fixed = (1, most)
        self._contexts: dict[int, Any] = {}  # by fixed batch size; 0: the one without a graph
        self._graphs: dict[int, tuple[Any, Any]] = {}  # graph and what launches, by batch size
        self._freed: list[tuple[str, Any]] = []  # what to call at the end, last first
        self.no_graphs = "" if graphs else "turned off"
        try:
            self._stream = self._made("cudaStreamCreate", free="cudaStreamDestroy")
            self._image, self._image_gpu = self._buffers((most, size, size, 3), np.uint8)
            self._embedding, self._embedding_gpu = self._buffers((most, dim), np.float32)
        except BaseException:
            self.close()
            raise

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (n, dim) of uint8 (n, size, size, 3), n at most the largest batch."""
        count = len(batch)
        self._image[:count] = batch
        if count in self._fixed and not self.no_graphs and count not in self._graphs:
            self._capture(count)
        if count in self._graphs:
            self._call("cudaGraphLaunch", self._graphs[count][1], self._stream)
        else:
            self._enqueue(self._context(0), count)
        self._call("cudaStreamSynchronize", self._stream)
        return self._embedding[:count].copy()

    def close(self) -> None:
        """Frees everything on the GPU. The object cannot be used afterwards."""
        for graph, launched in self._graphs.values():
            self._cuda.cudaGraphExecDestroy(launched)
            self._cuda.cudaGraphDestroy(graph)
        self._graphs.clear()
        self._contexts.clear()
        self._engine = None
        while self._freed:
            name, what = self._freed.pop()
            getattr(self._cuda, name)(what)

    def __del__(self) -> None:
        if getattr(self, "_freed", None):
            self.close()

    def _context(self, count: int) -> Any:
        if count not in self._contexts:
            context = new_context(self._trt, self._engine)
            self._true(context.set_tensor_address(IMAGE, int(self._image_gpu)), IMAGE)
            self._true(context.set_tensor_address(EMBEDDING, int(self._embedding_gpu)), EMBEDDING)
            self._contexts[count] = context
        return self._contexts[count]

    def _enqueue(self, context: Any, count: int) -> None:
        kinds = self._cuda.cudaMemcpyKind
        image, embedding = self._image[:count], self._embedding[:count]
        self._true(context.set_input_shape(IMAGE, image.shape), f"a batch of {count}")
        self._call(
            "cudaMemcpyAsync",
            self._image_gpu,
            image.ctypes.data,
            image.nbytes,
            kinds.cudaMemcpyHostToDevice,
            self._stream,
        )
        self._true(context.execute_async_v3(int(self._stream)), "the execution")
        self._call(
            "cudaMemcpyAsync",
            embedding.ctypes.data,
            self._embedding_gpu,
            embedding.nbytes,
            kinds.cudaMemcpyDeviceToHost,
            self._stream,
        )

    def _capture(self, count: int) -> None:
        """One graph of this batch size; where that fails, none from now on, and `no_graphs`."""
        context = self._context(count)
        self._enqueue(context, count)  # before the capture: TensorRT prepares for this shape
        self._call("cudaStreamSynchronize", self._stream)
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            self._call("cudaStreamBeginCapture", self._stream, mode)
            try:
                self._enqueue(context, count)
            finally:
                graph = self._call("cudaStreamEndCapture", self._stream)
            self._graphs[count] = graph, self._call("cudaGraphInstantiate", graph, 0)
        except EngineError as error:
            self.no_graphs = error.message

    def _buffers(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], Any]:
        """The same buffer twice: pinned on the host as an array, and on the GPU by address."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        host = self._made("cudaMallocHost", size, free="cudaFreeHost")
        gpu = self._made("cudaMalloc", size, free="cudaFree")
        return _array(int(host), shape, dtype), gpu

    def _made(self, name: str, *arguments: Any, free: str) -> Any:
        made = self._call(name, *arguments)
        self._freed.append((free, made))
        return made

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, name)(*arguments)
        if int(error) != 0:
            raise EngineError(f"CUDA refused {name}: {error.name}", found=error.name)
        return values[0] if values else None

    @staticmethod
    def _true(answer: bool, what: str) -> None:
        if not answer:
            raise EngineError(f"TensorRT refused {what}", hint="accrue engine build")


def _array(address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Memory of the host that numpy did not allocate, as an array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = memoryview((ctypes.c_char * size).from_address(address)).cast("B")
    found: NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)
    return found


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"cuda-python cannot be imported: {' '.join(str(error).split())}",
            hint="pip install cuda-python; on JetPack 6: pip install 'cuda-python>=12.6.1,<13'",
        ) from error
    return runtime
