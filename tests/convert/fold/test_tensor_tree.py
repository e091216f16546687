"""TensorReader and TensorWriter: names, shapes, and what each error says."""

import mlx.core as mx
import pytest

from fastvlm_mlx.convert.fold.reparam import Conv
from fastvlm_mlx.convert.fold.tensor_tree import TensorReader, TensorWriter
from fastvlm_mlx.errors import CheckpointError

TENSORS = {
    "net.blocks.0.fc.weight": mx.zeros((4, 2)),
    "net.blocks.1.fc.weight": mx.zeros((4, 2)),
    "net.conv.weight": mx.zeros((4, 1, 3, 5)),
    "net.bias": mx.zeros((4, 1, 1)),
}


def test_a_child_is_reached_by_names_and_indices():
    reader = TensorReader(TENSORS, "net.")
    assert reader.child("blocks", 1, "fc").prefix == "net.blocks.1.fc."
    assert reader.child("blocks").child(1).prefix == "net.blocks.1."
    assert list(reader.child("blocks").indices()) == [0, 1]
    assert "fc" in reader.child("blocks", 0) and "fc" not in reader
    assert reader.vector("bias", 4).shape == (4,)
    assert reader.read_optional("missing") is None


def test_readers_of_one_tree_share_what_was_read():
    reader = TensorReader(TENSORS, "net.")
    reader.child("blocks", 0, "fc").linear()
    reader.read("bias")
    assert reader.unread_names() == ["net.blocks.1.fc.weight", "net.conv.weight"]
    assert reader.child("blocks").unread_names() == reader.unread_names()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda r: r.read("x"), r"^tensor net\.x is missing; the checkpoint is inc"),
        (lambda r: r.vector("bias", 3), r"^tensor net\.bias has shape \(4, 1, 1\) for"),
        (lambda r: r.child("conv").weight(4), r"^tensor net\.conv\.weight has shape"),
        (lambda r: r.child("conv").weight(2), r"^tensor net\.conv\.weight has shape"),
    ],
)
def test_an_error_names_the_tensor(read, message: str):
    with pytest.raises(CheckpointError, match=message):
        read(TensorReader(TENSORS, "net."))


def test_indices_must_be_consecutive():
    reader = TensorReader({"a.0.x": mx.zeros(1), "a.2.x": mx.zeros(1)}, "a.")
    with pytest.raises(CheckpointError, match=r"^a\.\* has parts \[0, 2\], which are"):
        reader.indices()


def test_layers_are_written_in_mlx_layout():
    writer = TensorWriter({}, "net.")
    layer = Conv(mx.zeros((4, 2, 1, 1)), mx.zeros(4))
    writer.child("blocks", 0).write_pointwise("fc", layer)
    writer.write_depthwise("conv", Conv(mx.zeros((4, 1, 3, 3)), mx.zeros(4)))
    shapes = {name: array.shape for name, array in writer.tensors.items()}
    assert shapes == {
        "net.blocks.0.fc.weight": (4, 2),
        "net.blocks.0.fc.bias": (4,),
        "net.conv.weight": (4, 3, 3, 1),
        "net.conv.bias": (4,),
    }
    wide = Conv(mx.zeros((4, 2, 3, 3)), mx.zeros(4))
    with pytest.raises(CheckpointError, match=r"^net\.fc has a kernel of \(3, 3\)"):
        writer.write_pointwise("fc", wide)
