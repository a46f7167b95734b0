#!/usr/bin/env bash
# onnx2tf 1.29.24 slices an image by other places than ONNX says, without an error:
# - a Slice backwards over a whole axis, which torch.flip becomes, is left out: the image comes through as it was,
# - a Slice of channels together with rows or columns, x[:, 1:4, 2:5], takes the range of the channels for an axis of the image and the other way round
#   (another shape, or other pixels), and so does one that names its axes in another order than theirs (3, 2).
# Behind a convolution as at the input. onnx2tf's own check (-cotof) says "Matches" for the flip, since it compares on an image of equal
# pixels. One axis forwards, rows and columns together, strides above 1 and a flip from a place that is written down (5:1:-1) are right.
# Way out: one Slice for each axis, and Gather by places that are counted down for a flip. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx2tf==1.29.24
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
cd "$folder"
cat > make.py <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

END = -(2**63) + 1
some = np.random.default_rng(0).standard_normal
cases = {  # starts, ends, axes, steps
    "flip_columns": ([-1], [END], [3], [-1]),
    "flip_both": ([-1, -1], [END, END], [2, 3], [-1, -1]),
    "channels_and_rows": ([1, 2], [4, 5], [1, 2], [1, 1]),
    "columns_and_rows": ([1, 2], [4, 5], [3, 2], [1, 1]),
    "rows": ([2], [5], [2], [1]),
    "rows_and_columns": ([1, 2], [4, 5], [2, 3], [1, 1]),
    "strides": ([0, 1], [9, 9], [2, 3], [2, 2]),
    "backwards_from_5": ([5], [1], [3], [-1]),
}
x, weight = some((1, 4, 6, 7)).astype(np.float32), some((4, 4, 1, 1)).astype(np.float32)
for name, numbers in cases.items():
    nodes = [helper.make_node("Conv", ["x", "w"], ["m"]), helper.make_node("Slice", ["m", *"abcd"], ["y"])]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = {"w": weight} | {letter: np.array(each) for letter, each in zip("abcd", numbers, strict=True)}
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(each, key) for key, each in stored.items()])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{name}.onnx")
    wanted = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    image = np.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0])
    starts, stops, axes, steps = numbers
    places = [slice(None)] * 4
    for start, stop, axis, step in zip(*numbers, strict=True):
        places[axis] = slice(start, None if stop == END else stop, step)
    assert np.allclose(image[tuple(places)], wanted, atol=1e-5)  # numpy and onnxruntime agree
    np.savez(name, x=x, y=wanted, image=image)
PY
venv/bin/python make.py
venv/bin/python - >flip_columns.log 2>log <<'PY' || { tail -5 log; exit 2; }
import glob

import onnx2tf

for file in glob.glob("*.onnx"):
    name = file.removesuffix(".onnx")
    onnx2tf.convert(input_onnx_file_path=file, output_folder_path=name, check_onnx_tf_outputs_elementwise_close_full=name == "flip_columns")
PY
echo "onnx2tf's own check of the flip: $(grep -ac 'Matches' flip_columns.log) outputs match, $(grep -ac Unmatched flip_columns.log) do not"
grep -aq Matches flip_columns.log
venv/bin/python - 2>log <<'PY' || { tail -5 log; exit 2; }
import numpy as np
from ai_edge_litert.interpreter import Interpreter

for name in ("flip_columns", "flip_both", "channels_and_rows", "columns_and_rows", "rows", "rows_and_columns", "strides", "backwards_from_5"):
    kept = np.load(f"{name}.npz")
    reader = Interpreter(f"{name}/{name}_float32.tflite")
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], kept["x"].transpose(0, 2, 3, 1))
    reader.invoke()
    found = reader.get_tensor(reader.get_output_details()[0]["index"]).transpose(0, 3, 1, 2)
    same = found.shape == kept["y"].shape and np.allclose(found, kept["y"], atol=1e-5)
    print(f"onnx2tf 1.29.24: {name}: {'the same' if same else 'differs'}, onnxruntime {kept['y'].shape}, TFLite {found.shape}")
    assert same == (name in ("rows", "rows_and_columns", "strides", "backwards_from_5"))
    if name.startswith("flip"):
        assert np.allclose(found, kept["image"], atol=1e-5)  # nothing was turned around
PY
