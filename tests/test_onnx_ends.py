"""What stands at the ends of .onnx files and of the graphs inside of them: weights given, inputs without axes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.errors import ExitCode
from idp_deploy.formats.onnx.write import restoring
from idp_deploy.gating import sparsity
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from tests.cli_project import call
from tests.test_onnx_strangers import FLOAT, NODE, PRODUCT, WEIGHT, save, weight


@pytest.mark.parametrize("as_node", [False, True])
def test_what_a_branch_gives_is_a_weight(as_node: bool, tmp_path: Path) -> None:
    """`If` chooses one of two matrices, which stand in its branches and nowhere else, densely or sparse."""
    branches = []
    for name in ("a", "b"):
        held = numpy_helper.from_array(weight(64, 96), name)
        nodes = [NODE("Constant", [], [name], value=held)] if as_node else []
        given = helper.make_tensor_value_info(name, FLOAT, [64, 96])
        branches.append(helper.make_graph(nodes, name, [], [given], [] if as_node else [held]))
    nodes = [NODE("If", ["c"], ["w"], then_branch=branches[0], else_branch=branches[1]), PRODUCT]
    asked = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    before = save(tmp_path / "m.onnx", nodes, {}, inputs=[asked])
    after = read(restore(before.path, tmp_path / "s.onnx").path)
    for contents, encodings in ((before, {"dense"}), (after, {"gaps8"})):
        assert [(t.shape, t.size_bytes > 0) for t in contents.tensors] == [((64, 96), True)] * 2
        assert {t.encoding for t in contents.tensors} == encodings
        assert sparsity(contents)[0] == pytest.approx(0.9, abs=0.02)


def test_an_input_that_says_no_number_of_axes_asks_for_its_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT})
    model = onnx.load(contents.path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, contents.path)
    for command in (["verify", contents.path], ["restore", contents.path, "-o", tmp_path / "s.onnx"]):
        assert call(*map(str, command)) == ExitCode.FILE
        assert "does not say how many axes its input 'x' has" in capsys.readouterr().err
    assert call("verify", str(contents.path), "--inputs", "2x64") == 0


def test_matrices_beside_the_file_are_mapped_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is loaded but the one that stays a caller's; the file is what it is of data inside of it."""
    stored = {"w": WEIGHT, "v": weight(64, 96), "u": WEIGHT + np.float32(1), "kept": weight(64, 96)}
    nodes = [NODE("MatMul", ["x", name], [f"{name}y"]) for name in stored]
    nodes.append(NODE("Sum", [f"{name}y" for name in stored], ["y"]))
    kept = helper.make_tensor_value_info("kept", FLOAT, [64, 96])
    whole = save(tmp_path / "m.onnx", nodes, stored, inputs=[kept])
    model = onnx.load(whole.path)
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    loaded = []
    load = restoring.load_external_data_for_tensor
    monkeypatch.setattr(
        restoring, "load_external_data_for_tensor", lambda t, folder: (loaded.append(t.name), load(t, folder))
    )
    monkeypatch.setattr(restoring, "_MAPPED_BYTES", 1000)
    form, other = (next(restoring.restored_onnx(contents)) for contents in (whole, read(tmp_path / "e.onnx")))
    assert form == other
    assert loaded == ["kept"]
