"""PIRModel compiled, and traced for export: one graph, the same numbers, any batch and length."""

import pytest
import torch

from tests.support.model_inputs import assert_close, loss_of, make_inputs

pytestmark = pytest.mark.slow  # tracing takes eight seconds each time


@pytest.fixture
def inputs():
    """Three images and three texts."""
    return make_inputs()


def test_it_compiles_as_one_graph(tiny_model, inputs):
    torch._dynamo.reset()
    expected = loss_of(tiny_model, inputs)
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")  # the graph is what is tested, not Inductor
    assert_close(loss_of(compiled, inputs), expected)


def test_inductor_gives_the_same_loss_and_gradients(tiny_model, inputs):
    torch._dynamo.reset()
    expected = loss_of(tiny_model, inputs)
    gradient = torch.autograd.grad(expected, tiny_model.visual_projection.weight)[0]
    loss = loss_of(torch.compile(tiny_model, fullgraph=True), inputs)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, tiny_model.visual_projection.weight)[0], gradient)


class Features(torch.nn.Module):
    """One side of a model as a module, which is what torch.export takes."""

    def __init__(self, model, side):
        super().__init__()
        self.model, self.side = model, side

    def forward(self, *args):
        return getattr(self.model, f"get_{self.side}_features")(*args).pooler_output


def test_each_side_is_exported_for_any_batch_and_length(tiny_model, inputs):
    other = make_inputs(num_images=5, num_texts=4, length=12)
    any_size = torch.export.Dim.DYNAMIC
    for side, names, shapes in (
        ("image", ["pixel_values"], ({0: any_size},)),
        ("text", ["input_ids", "attention_mask"], ({0: any_size, 1: any_size},) * 2),
    ):
        module = Features(tiny_model, side)
        with torch.no_grad():
            program = torch.export.export(module, tuple(inputs[name] for name in names), dynamic_shapes=(shapes,))
            arguments = tuple(other[name] for name in names)
            assert_close(program.module()(*arguments), module(*arguments))


def test_the_whole_forward_is_exported(tiny_model, inputs):
    with torch.no_grad():
        program = torch.export.export(tiny_model, (), inputs)
        assert_close(program.module()(**inputs)["logits_per_image"], tiny_model(**inputs).logits_per_image)
