"""The device side: trains and runs an artifact within a memory budget.

Needs numpy, onnxruntime, psutil and pillow; never torch.
"""
