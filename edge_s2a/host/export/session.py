"""Makes plain sessions of onnxruntime, also in a process whose sessions share their threads."""

import onnxruntime


def plain_session(
    model: str | bytes, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Returns a session on the CPU for an ONNX model, a path or its bytes; `options`: by default onnxruntime's own.

    Once a `Trainer` has made the threads of all sessions common, onnxruntime refuses sessions with threads of their
    own, and it does not tell beforehand.
    """
    options = options or onnxruntime.SessionOptions()
    try:  # enable_fallback would print the refusal and try the same again
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except RuntimeError as error:
        if "use_per_session_threads" not in str(error):
            raise
    options.use_per_session_threads = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
