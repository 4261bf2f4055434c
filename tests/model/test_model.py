"""What the model promises: a frozen backbone of any family, padding without effect, adapters apart from each other."""

import copy
import inspect

import pytest
import torch
from helpers import FAMILIES, batch, bytes_of, make_model, output, save_backbone, shake, small_adapter, tiny_backbone
from transformers import RobertaModel
from transformers.integrations import PeftAdapterMixin

from kadapter import KAdapterForEntityPairClassification, KAdapterModel


@pytest.fixture
def backbone(tmp_path):
    return save_backbone(tmp_path / "backbone")


def real(states, inputs):
    return states[inputs["attention_mask"].bool()]


def step(model, **inputs):
    """One training step of whatever trains."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.05)
    model.train()
    model(**(inputs or batch())).last_hidden_state.square().mean().backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_backbone_from_a_directory_and_as_a_module_alike(family, tmp_path):
    path = save_backbone(tmp_path, family)
    from_directory, from_module = make_model(path, "fac"), make_model(tiny_backbone(family), "fac")
    assert torch.equal(output(from_directory, **batch(family)), output(from_module, **batch(family)))
    assert from_directory.config.backbone_fingerprint and from_module.config.backbone_fingerprint is None


@pytest.mark.parametrize("size", ["as initialised", "large"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_of_any_amount_on_either_side_changes_no_real_token(family, size):
    model = KAdapterModel.from_backbone(tiny_backbone(family), adapters={"fac": small_adapter()}).eval()
    if size == "large":
        shake(model, std=0.1)
    alone = batch(family, lengths=(9,))
    expected = real(output(model, **alone), alone)
    for side in ("right", "left"):
        for extra in (0, 1, 17):
            padded = batch(family, side=side, extra=extra)
            found = real(output(model, **padded), padded)[:9]
            largest = expected.abs().max() if size == "large" else 1
            assert (found - expected).abs().max() <= 1e-5 * largest, (side, extra)


def test_embeddings_as_input_are_numbered_by_the_mask(backbone):
    model = make_model(backbone, "fac")
    for side in ("right", "left"):
        inputs = batch(side=side, extra=2)
        embedded = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
        del embedded["input_ids"]
        torch.testing.assert_close(
            real(output(model, **embedded), inputs), real(output(model, **inputs), inputs), rtol=1e-5, atol=1e-5
        )


def test_right_padding_and_gaps_leave_the_backbone_as_it_is():
    module = tiny_backbone("bert")
    model = make_model(module, "fac")
    inputs = batch("bert", extra=2)
    inputs["attention_mask"][0, 4] = 0
    with torch.no_grad():
        assert torch.equal(model(**inputs).backbone_hidden_state, module(**inputs).last_hidden_state)


@pytest.mark.parametrize("family", [one for one in FAMILIES if one not in ("deberta-v2", "mpnet")])
def test_a_backbone_keeps_no_more_than_the_tapped_states(family):
    model, kept = make_model(tiny_backbone(family), "fac", "lin"), []

    def count(module, args, result):
        kept.append(sum(state is not None for state in result.hidden_states or ()))

    model.backbone.register_forward_hook(count)
    first, second = (output(model, **batch(family)) for _ in range(2))
    assert torch.equal(first, second) and kept == [3, 3]
    with torch.no_grad():
        every = model(**batch(family), output_hidden_states=True)
    assert len(every.hidden_states) == 5 and torch.equal(every.last_hidden_state, first)
    model.disable_adapters()
    assert torch.equal(output(model, **batch(family)), every.backbone_hidden_state) and kept[2:] == [5, 0]


def test_a_backbone_that_returns_no_hidden_states_is_named(backbone):
    class Silent(RobertaModel):
        def forward(self, *args, output_hidden_states=None, **kwargs):
            return super().forward(*args, **kwargs)

    model = make_model(Silent(tiny_backbone().config).eval(), "fac")
    with pytest.raises(ValueError, match=r"Silent returned the hidden states \[\] where \[0, 2, 4\] were asked for"):
        output(model)


def test_a_copy_and_a_replaced_backbone_are_tapped_in_their_own_blocks(backbone):
    model = make_model(backbone, "fac")
    before = output(model)
    twin = copy.deepcopy(model)
    assert torch.equal(output(twin), before)
    twin.backbone = tiny_backbone("bert", seed=4).requires_grad_(False)
    assert torch.equal(output(twin), output(twin)) and not torch.equal(output(twin), before)
    assert torch.equal(output(model), before)


def test_without_mask_padding_the_adapters_see_padding_as_the_official_code_does(backbone):
    model = KAdapterModel.from_backbone(backbone, adapters={"fac": small_adapter(mask_padding=False)})
    shake(model).eval()
    near, far = batch(lengths=(9,)), batch(lengths=(9,), extra=5)
    assert (output(model, **near) - output(model, **far)[:, :9]).abs().max() > 1e-3


def test_a_row_of_padding_alone_gives_numbers(backbone):
    inputs = batch(lengths=(5, 0))
    assert torch.isfinite(output(make_model(backbone, "fac"), **inputs)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_tokens_as_the_backbone_takes_pass_and_one_more_is_told(family):
    model = KAdapterModel.from_backbone(tiny_backbone(family), adapters={"fac": small_adapter()}).eval()
    longest = 38 if FAMILIES[family] == 1 else 40  # RoBERTa and its like begin behind their pad id
    assert output(model, input_ids=torch.full((1, longest), 7)).shape[1] == longest
    if family not in ("deberta-v2", "modernbert"):  # relative and rotary positions have no end
        with pytest.raises(ValueError, match=rf"{longest + 1} tokens are more than the {longest} that the backbone"):
            output(model, input_ids=torch.full((1, longest + 1), 7))


def test_a_mask_of_another_shape_is_refused(backbone):
    inputs = {**batch(lengths=(5,)), "attention_mask": torch.ones(1, 1, 5, 5)}
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 1, 5, 5\)"):
        output(make_model(backbone, "fac"), **inputs)


def test_a_new_adapter_passes_on_the_sum_of_the_states_it_taps(backbone):
    model = KAdapterModel.from_backbone(backbone, adapters={"fac": small_adapter()}).eval()
    with torch.no_grad():
        found = model(**batch(), output_hidden_states=True)
    expected = sum(found.hidden_states[layer] for layer in (0, 2, 4))
    assert (found.adapter_hidden_states["fac"] - expected).abs().max() < 0.05


def test_layers_default_to_the_first_the_middle_and_the_last_but_one():
    model = KAdapterModel.from_backbone(tiny_backbone(num_hidden_layers=6), adapters={})
    model.add_adapter("fac", {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 16})
    assert model.config.adapters["fac"]["layers"] == [0, 2, 4]


def test_training_an_adapter_changes_no_byte_of_the_backbone(tmp_path, backbone):
    model = make_model(backbone, "fac")
    before, stored = (
        bytes_of(model.backbone),
        {one.name: one.read_bytes() for one in (tmp_path / "backbone").iterdir()},
    )
    step(model)
    assert bytes_of(model.backbone) == before
    assert {one.name: one.read_bytes() for one in (tmp_path / "backbone").iterdir()} == stored
    assert all(one.grad is None for one in model.backbone.parameters())


def test_the_frozen_backbone_builds_no_graph_and_stays_in_eval(backbone):
    model = make_model(backbone, "fac").train()
    found = model(**batch())
    assert not found.backbone_hidden_state.requires_grad and found.last_hidden_state.requires_grad
    assert not any(one.training for one in model.backbone.modules()) and model.adapters["fac"].training


def test_whatever_part_of_it_was_set_to_train_what_is_frozen_goes_back_to_eval(backbone):
    model = make_model(backbone, "fac", "lin", fusion="concat")
    model.train_adapter("fac")
    model.extra = torch.nn.Dropout().eval()  # as a subclass may add
    model.backbone.encoder.layer[1].train()
    model.adapters["lin"].layers[0].train()
    model.train()
    frozen = [*model.backbone.modules(), *model.adapters["lin"].modules()]
    assert not any(one.training for one in frozen)
    assert all(one.training for one in (model, model.fusion, model.extra, *model.adapters["fac"].modules()))
    assert not any(one.training for one in model.eval().modules())


def test_whatever_happens_to_one_adapter_another_gives_the_same_bits(tmp_path, backbone):
    make_model(backbone, "other").save_adapter(tmp_path / "other", "other")
    model = make_model(backbone, "fac")

    def fac():
        with torch.no_grad():
            return model(**batch()).adapter_hidden_states["fac"]

    before = fac()
    model.add_adapter("lin", small_adapter())
    assert torch.equal(fac(), before)
    model.load_adapter(tmp_path / "other")
    assert torch.equal(fac(), before)
    model.train_adapter("lin")
    step(model)
    assert torch.equal(fac(), before)
    model.delete_adapter(["lin", "other"])
    assert torch.equal(fac(), before)


def test_frozen_adapters_pass_the_gradient_on_to_an_unfrozen_backbone(backbone):
    model = make_model(backbone, "fac")
    model.backbone.requires_grad_(True)
    model.adapters["fac"].requires_grad_(False)
    model.train()
    assert not model.adapters["fac"].training and model.backbone.training
    model.eval()
    model(**batch()).adapter_hidden_states["fac"].square().mean().backward()
    assert all(one.grad is None for one in model.adapters["fac"].parameters())
    assert model.get_input_embeddings().weight.grad.abs().max() > 0


def test_what_trains_by_default_and_after_train_adapter(tmp_path, backbone):
    def training(model):
        return {key.split(".")[1] for key, one in model.named_parameters() if one.requires_grad and "adapters." in key}

    made = KAdapterModel.from_backbone(backbone)
    made.add_adapter("fac", small_adapter())
    assert training(made) == {"fac"}
    made.save_pretrained(tmp_path / "fac")
    loaded = KAdapterModel.from_pretrained(tmp_path / "fac")
    assert training(loaded) == set()
    loaded.add_adapter("new", small_adapter())
    loaded.load_adapter(tmp_path / "fac", "again")
    assert training(loaded) == {"new"}
    loaded.train_adapter("again")
    assert training(loaded) == {"again"}
    assert not any(one.requires_grad for one in loaded.backbone.parameters())


def test_train_adapter_trains_the_fusion_and_the_head_too(backbone):
    model = KAdapterForEntityPairClassification.from_backbone(
        backbone, adapters={"fac": small_adapter(), "lin": small_adapter()}, fusion="concat", num_labels=3
    )
    model.train_adapter([])
    trained = {key.partition(".")[0] for key, one in model.named_parameters() if one.requires_grad}
    assert trained == {"kadapter", "head"}
    assert {key.split(".")[1] for key, one in model.named_parameters() if one.requires_grad} >= {"fusion", "dense"}
    assert not any(one.requires_grad for one in model.base_model.adapters.parameters())


def test_disabled_adapters_leave_the_backbone_alone_and_come_back(backbone):
    model = make_model(backbone, "fac", "lin")
    together = output(model)
    model.set_adapter("lin")
    assert model.active_adapters() == ["lin"]
    alone = output(model)
    model.disable_adapters()
    with torch.no_grad():
        found = model(**batch())
    assert model.active_adapters() == [] and torch.equal(found.last_hidden_state, found.backbone_hidden_state)
    model.enable_adapters()
    assert torch.equal(output(model), alone)
    model.set_adapter(["lin", "fac"])
    assert torch.equal(output(model), together)


def test_an_adapter_added_while_all_are_disabled_leaves_the_others_active(backbone):
    model = make_model(backbone, "fac", "lin")
    model.set_adapter(["fac"])
    model.disable_adapters()
    model.add_adapter("new", small_adapter())
    model.enable_adapters()
    assert model.active_adapters() == ["fac", "new"]


def test_training_one_of_disabled_adapters_keeps_the_active_ones(backbone):
    model = make_model(backbone, "fac", "lin")
    model.disable_adapters()
    model.train_adapter("lin")
    assert model.active_adapters() == ["fac", "lin"]


def test_concat_fusion_is_for_all_of_its_adapters(backbone):
    model = make_model(backbone, "fac", "lin", fusion="concat")
    with pytest.raises(ValueError, match="fusion 'concat' was made for all of"):
        model.set_adapter("fac")


def test_a_changed_set_of_adapters_keeps_what_concat_fusion_learned_of_each(backbone, caplog):
    model = make_model(backbone, "fac", "lin", fusion="concat")
    kept = bytes_of(model.fusion.projections["fac"])
    model.add_adapter("third", small_adapter())
    assert "untrained; train it" in caplog.text
    assert bytes_of(model.fusion.projections["fac"]) == kept and output(model).shape == (3, 9, 32)
    model.delete_adapter(["third", "lin"])
    assert bytes_of(model.fusion.projections["fac"]) == kept and output(model).shape == (3, 9, 32)


def test_every_method_of_the_peft_mixin_is_ours():
    theirs = {name for name, _ in inspect.getmembers(PeftAdapterMixin, inspect.isfunction) if name[0] != "_"}
    assert {name for name in theirs if getattr(KAdapterModel, name) is getattr(PeftAdapterMixin, name)} == set()


def test_hot_swapping_needs_no_preparation_as_a_sentence_says(backbone):
    with pytest.raises(ValueError, match=r"load_adapter\(id, name, hotswap=True\)"):
        make_model(backbone, "fac").enable_peft_hotswap(target_rank=4)


def test_arguments_in_another_librarys_order_are_explained(tmp_path, backbone):
    model = make_model(backbone, "fac")
    with pytest.raises(TypeError, match="other libraries have another order"):
        model.add_adapter(small_adapter(), "new")
    with pytest.raises(TypeError, match=r"save_adapter takes \(path, adapter_name\)"):
        model.save_adapter("fac", str(tmp_path / "out"))
    with pytest.raises(TypeError, match=r"load_adapter takes \(id_or_path, adapter_name\)"):
        model.load_adapter("fac", str(tmp_path / "out"))
    model.save_adapter(str(tmp_path / "fac"), "fac")
    for loading in (KAdapterModel, KAdapterForEntityPairClassification):
        for arguments in ((backbone, str(tmp_path / "fac")), (str(tmp_path / "fac"), str(tmp_path / "fac"))):
            with pytest.raises(
                TypeError, match=r"takes an id or directory, or a list of them; a model goes to backbone"
            ):
                loading.from_pretrained(*arguments)
    with pytest.raises(TypeError, match="load_adapter has no keyword 'is_trainable'"):
        model.load_adapter(str(tmp_path), is_trainable=True)


@pytest.mark.parametrize("name", ["a.b", "", "a b", "keys", "forward", "größe", "half"])
def test_a_name_that_can_be_no_module_is_refused(name, backbone):
    with pytest.raises(ValueError, match="choose another name"):
        make_model(backbone).add_adapter(name)


def test_unknown_and_taken_names_are_told(backbone):
    model = make_model(backbone, "fac")
    with pytest.raises(ValueError, match=r"no adapter 'lin'; there are \['fac'\]"):
        model.set_adapter("lin")
    with pytest.raises(ValueError, match="there is an adapter 'fac' already"):
        model.add_adapter("fac")


def test_one_adapters_tensors_come_by_their_names_inside_it(backbone):
    model = make_model(backbone, "fac", "lin", model_class=KAdapterForEntityPairClassification)
    found = model.get_adapter_state_dict("fac")
    assert "layers.0.down_project.weight" in found and len(found) == len(model.base_model.adapters["fac"].state_dict())
    with pytest.raises(ValueError, match="say which adapter you mean"):
        model.get_adapter_state_dict()


def test_the_number_of_trainable_parameters_is_printed(backbone, capsys):
    model = make_model(backbone, "fac", "lin")
    model.train_adapter("lin")
    model.print_trainable_parameters()
    trained = sum(one.numel() for part in (model.adapters["lin"], model.fusion) for one in part.parameters())
    total = trained + sum(one.numel() for part in (model.adapters["fac"], model.backbone) for one in part.parameters())
    assert capsys.readouterr().out == (
        f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}\n"
    )


def test_activation_checkpointing_computes_blocks_twice_and_gives_equal_gradients(backbone):
    def gradients(checkpointing):
        model = KAdapterForEntityPairClassification.from_backbone(
            backbone, adapters={"fac": small_adapter()}, num_labels=3
        )
        if checkpointing:
            shake(model).activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        shake(model).train()
        computed = []
        for layer in model.base_model.adapters["fac"].layers:
            for block in layer.blocks:
                block.intermediate.register_forward_pre_hook(lambda module, given: computed.append(module))
        torch.manual_seed(5)  # dropout too is drawn alike
        inputs = {**batch(lengths=(30, 20)), "entity_positions": torch.tensor([[1, 4], [2, 3]])}
        model(**inputs, labels=torch.tensor([0, 2])).loss.backward()
        return [len(computed), *(one.grad for one in model.parameters() if one.requires_grad)]

    (twice, *found), (once, *expected) = gradients(True), gradients(False)
    assert (twice, once) == (12, 6) and len(found) > 90
    assert all(map(torch.equal, found, expected))


def test_resized_embeddings_are_frozen_as_before(backbone):
    model = make_model(backbone, "fac")
    assert not model.config.backbone_modified
    model.resize_token_embeddings(60)
    assert not model.config.backbone_modified
    model.resize_token_embeddings(64)
    assert model.config.backbone_modified and model.config.vocab_size == 64
    assert not model.get_input_embeddings().weight.requires_grad


@pytest.mark.slow
def test_an_adapter_compiles_as_one_graph_and_gives_the_same_numbers(backbone):
    adapter = make_model(backbone, "fac").adapters["fac"]
    states = [torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(one)) for one in range(3)]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    compiled = torch.compile(adapter, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(states, mask), adapter(states, mask))
    adapter.train()
    compiled(states, mask).sum().backward()  # with dropout and a graph
    assert all(one.grad.isfinite().all() for one in adapter.parameters())


def test_a_backbone_in_bf16_goes_with_adapters_in_fp32(backbone):
    model = make_model(backbone, "fac", "lin", fusion="concat", dtype=torch.bfloat16)
    assert model.backbone.dtype == torch.bfloat16 and output(model).dtype == torch.float32
    model.to(torch.bfloat16)
    model.delete_adapter("lin")
    model.add_adapter("new", small_adapter())
    assert torch.isfinite(output(model)).all()


def test_an_encoder_with_a_decoder_and_an_artifact_are_no_backbones(tmp_path, backbone):
    from transformers import T5Config, T5Model

    tiny = T5Model(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="an encoder with a decoder"):
        KAdapterModel.from_backbone(tiny)
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    with pytest.raises(ValueError, match="is itself a K-Adapter model"):
        KAdapterModel.from_backbone(tmp_path / "fac")
    with pytest.raises(TypeError, match="a backbone is a PreTrainedModel"):
        KAdapterModel.from_backbone(torch.nn.Linear(2, 2))


def test_a_keyword_that_the_backbone_does_not_take_is_named(backbone):
    with pytest.raises(TypeError, match="nonsense"):
        KAdapterModel.from_backbone(backbone, nonsense=1)
