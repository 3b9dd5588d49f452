"""Imported before onnxruntime.training, this keeps it from importing torch, which its package file does for parts that
neither making artifacts nor training from them uses."""

import os
import sys
import types

import onnxruntime

package = types.ModuleType("onnxruntime.training")
package.__path__ = [os.path.join(os.path.dirname(onnxruntime.__file__), "training")]
sys.modules["onnxruntime.training"] = package
