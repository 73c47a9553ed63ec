"""A language model cut and taught: what is kept of its teacher, which layers go, and that teaching shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.errors import DataError, TeacherError, UsageError
from edgekd.core.protocols import NullProgress
from edgekd.core.registry import make
from edgekd.core.tensors import Outputs, Targets, TopLogits
from edgekd.data import packed, vocabulary
from edgekd.plan.plan import LossTerm
from edgekd.store.store import Store
from edgekd.training.language import cut, kept_logits, lessons, scores
from edgekd.training.language.distil import FILE, Request, distil
from tests.tiny_language import save_llama, save_tokenizer, text_of

KL = ("forward_kl", "reverse_kl", "skewed_kl")


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_llama(tmp_path_factory.mktemp("language") / "teacher")
    (folder / "chat_template.jinja").write_text("{% for one in messages %}{{ one.content }}{% endfor %}")
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def rows_of(count: int, length: int = 40, vocabulary: int = 400) -> list[dict[str, torch.Tensor]]:
    draw = np.random.default_rng(0)
    rows, _ = packed.pack([{"input_ids": draw.integers(2, vocabulary, (1, length))} for _ in range(count)], length)
    return [{name: torch.from_numpy(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("size", [5, 65, 1000, 49_152, 128_256, 262_144])
def test_what_is_kept_of_a_token_takes_256_bytes(size: int) -> None:
    said = (3 * torch.randn(7, size, generator=torch.Generator().manual_seed(size))).log_softmax(dim=-1)
    kept = kept_logits.keep(said)
    assert kept.nbytes <= 256 * 7
    top = kept_logits.read(kept, size)
    values = said.topk(kept.shape[-1], dim=-1).values
    torch.testing.assert_close(top.values, values, atol=2e-3, rtol=0)
    assert (said.gather(-1, top.classes) - values).abs().max() < 1e-6, "the tokens themselves"
    mass = top.values.exp().sum(dim=-1) + (size - kept.shape[-1]) * top.rest.exp()
    torch.testing.assert_close(mass, torch.ones(7), atol=1e-3, rtol=0)


def test_what_the_student_lacks_is_among_the_others() -> None:
    said = torch.tensor([[0.5, 0.2, 0.1]]).log()  # of a vocabulary that has .2 elsewhere
    top = kept_logits.read(kept_logits.keep(said), 3)
    assert float(top.rest.exp() * (3 - top.values.shape[-1])) == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("name", KL)
def test_a_tail_of_one_class_is_the_whole_divergence(name: str) -> None:
    draw = torch.Generator().manual_seed(1)
    own, said = (torch.randn(6, 9, generator=draw) for _ in range(2))
    labels = torch.zeros(6, dtype=torch.long)
    dense = make("losses", name)(Outputs(own), Targets(Outputs(said), labels))
    values, classes = said.topk(8, dim=-1)
    rest = said.scatter(-1, classes, -torch.inf).logsumexp(dim=-1)
    sparse = Targets(Outputs(torch.empty(0), top=TopLogits(values, classes, rest, 9)), labels)
    assert float(make("losses", name)(Outputs(own), sparse)) == pytest.approx(float(dense), abs=1e-5)
    assert float(make("losses", name)(Outputs(said), sparse)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", KL)
def test_nothing_is_said_of_which_other_class_has_the_rest(name: str) -> None:
    values, classes = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 3]])
    targets = Targets(Outputs(torch.empty(0), top=TopLogits(values, classes, torch.tensor([-1.0]), 6)), torch.zeros(1))
    first = torch.tensor([[2.0, 0.3, -2.0, 1.0, 0.1, -0.5]], requires_grad=True)
    shuffled = first.detach()[:, [0, 4, 5, 3, 2, 1]]
    loss = make("losses", name)(Outputs(first), targets)
    assert float(make("losses", name)(Outputs(shuffled), targets)) == pytest.approx(float(loss.detach()), abs=1e-6)
    loss.backward()
    others = first.grad[0, [1, 2, 4, 5]] / first.detach()[0, [1, 2, 4, 5]].exp()
    assert float(others.std()) < 1e-6, "the rest moves as one"


def test_directions_of_divergence_differ() -> None:
    """Forward punishes what the student leaves out, reverse what it makes up, skewed neither without bound."""
    said = torch.tensor([[4.0, 4.0, -30.0, -30.0]])
    narrow, broad = torch.tensor([[9.0, -20.0, -20.0, -20.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    targets = Targets(Outputs(said), torch.zeros(1, dtype=torch.long))
    value = {
        (name, own): float(make("losses", name)(Outputs(x), targets))
        for name in KL
        for own, x in (("narrow", narrow), ("broad", broad))
    }
    assert value["forward_kl", "narrow"] > 5 > value["forward_kl", "broad"]
    assert value["reverse_kl", "broad"] > 5 > value["reverse_kl", "narrow"]
    assert value["skewed_kl", "narrow"] < -np.log(0.1)


def test_the_layer_that_does_nothing_goes_first(teacher_folder: Path) -> None:
    model = load(teacher_folder)
    with torch.no_grad():
        for part in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
            part.weight.zero_()
        torch.manual_seed(0)
        said = model.generate(torch.zeros(3, 1, dtype=torch.long), do_sample=True, max_new_tokens=60, eos_token_id=None)
    rows = [{"input_ids": one[None], "position_ids": torch.arange(61)[None]} for one in said]
    before = cut.run(model, rows[0]).detach()
    seen: list[str] = []
    assert cut.remove_layers(model, 3, rows, lambda done, note: seen.append(note)) == [0, 1, 3]
    torch.testing.assert_close(cut.run(model, rows[0]).detach(), before)
    assert len(seen) == 1
    assert model.config.num_hidden_layers == len(model.model.layers) == 3
    written = model.generate(rows[0]["input_ids"][:, :5], max_new_tokens=4, do_sample=False)
    assert written.shape[1] <= 9, "its cache has a place for each layer"


def test_layers_that_were_found_are_taken_again(teacher_folder: Path) -> None:
    model, rows = load(teacher_folder), rows_of(1)
    kept = cut.remove_layers(model, 2, rows)
    again = load(teacher_folder)
    cut.take_layers(again, kept)
    torch.testing.assert_close(cut.run(again, rows[0]), cut.run(model, rows[0]))
    assert [layer.self_attn.layer_idx for layer in again.model.layers] == [0, 1]


def test_layers_are_measured_again_after_each_removal(teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    influence = cut._influence
    monkeypatch.setattr(cut, "_influence", lambda m, layers, b: calls.append(len(layers)) or influence(m, layers, b))
    model = load(teacher_folder)
    kept = cut.remove_layers(model, 1, rows_of(2))
    assert calls == [4, 3, 2]
    assert len(kept) == 1
    best = min(cut.mean_loss(_with(load(teacher_folder), [layer]), rows_of(2)) for layer in range(4))
    assert cut.mean_loss(model, rows_of(2)) <= best + 1.0


def _with(model: Any, layers: list[int]) -> Any:
    model.model.layers = torch.nn.ModuleList([model.model.layers[layer] for layer in layers])
    model.config.num_hidden_layers = len(layers)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_kept_tokens_are_foreseen_as_before(tmp_path: Path, tied: bool) -> None:
    model = load(save_llama(tmp_path / "teacher", tied=tied))
    kept = [0, 1, *range(10, 400, 3)]
    ids = torch.tensor([[kept.index(number) for number in (0, 10, 13, 40, 100)]])
    batch = {"input_ids": torch.tensor([[0, 10, 13, 40, 100]]), "position_ids": torch.arange(5)[None]}
    before = cut.run(model, batch).detach()[..., kept]
    cut.keep_tokens(model, kept)
    torch.testing.assert_close(cut.run(model, {**batch, "input_ids": ids}).detach(), before)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model.config.vocab_size == len(kept)
    assert model.config.pad_token_id == 1
    model.save_pretrained(tmp_path / "cut")
    again = load(tmp_path / "cut")
    torch.testing.assert_close(cut.run(again, {**batch, "input_ids": ids}).detach(), before)


def test_half_of_the_parameters_at_most(teacher_folder: Path) -> None:
    model = load(teacher_folder)
    for share in (0.5, 0.6, 0.9, 1.0):
        layers = cut.layers_for(model, 100, share)
        student = _with(copy.deepcopy(model), list(range(layers)))
        cut.keep_tokens(student, range(100))
        assert cut.parameters(student) <= share * cut.parameters(model)
        if layers < 4:
            assert cut.parameters(student) + cut.parameters(model.model.layers[0]) > share * cut.parameters(model)
    with pytest.raises(TeacherError, match="tables of 400 tokens alone") as caught:
        cut.layers_for(model, 400, 0.1)
    assert "--vocabulary" in caught.value.fix


def test_a_closed_vocabulary_cuts_the_corpus_into_the_same_tokens(tmp_path: Path) -> None:
    """Pieces that are only passed through stay, by every pair that makes them."""
    folder = save_tokenizer(tmp_path)
    texts = [text_of(seed, 20) for seed in range(6)]
    kept = vocabulary.kept_ids(folder / "tokenizer.json", texts)
    (tmp_path / "small").mkdir()
    vocabulary.trim_tokenizer(folder / "tokenizer.json", kept, tmp_path / "small" / "tokenizer.json")
    from tokenizers import Tokenizer

    whole, small = (Tokenizer.from_file(str(place / "tokenizer.json")) for place in (folder, tmp_path / "small"))
    assert small.get_vocab_size() < whole.get_vocab_size()
    for text in texts:
        assert [kept[one] for one in small.encode(text).ids] == whole.encode(text).ids
    strange = "żółw 東京 🦊"
    assert small.decode(small.encode(strange).ids) == strange, "nothing is unknown"


def corpus_of(folder: Path, documents: int = 24, sentences: int = 24) -> Path:
    folder.mkdir()
    for number in range(documents):
        (folder / f"{number}.txt").write_text(text_of(number, sentences))
    return folder


def request(teacher: Path, data: Path, **values: Any) -> Request:
    usual: dict[str, Any] = {
        "teacher": teacher,
        "teacher_sha256": "0" * 64,
        "data": str(data),
        "text_column": None,
        "layers": 2,
        "vocabulary": None,
        "row_tokens": 512,
        "train_tokens": None,
        "losses": (LossTerm("forward_kl", 0.9, {}), LossTerm("hard_labels", 0.1, {"label_smoothing": 0.0})),
        "epochs": 3,
        "learning_rate": 5e-3,
        "evidence": True,
        "seed": 0,
        "threads": 1,
    }
    return Request(**usual | values)


@pytest.fixture(scope="module")
def distilled(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    place = tmp_path_factory.mktemp("distilled")
    out = place / "student"
    out.mkdir()
    asked = request(teacher_folder, corpus_of(place / "corpus"))
    return out, distil(asked, out, Store(place / "store"), NullProgress())


def test_teaching_shows_against_labels_alone(distilled: tuple[Path, dict[str, Any]]) -> None:
    """The teacher is random: what it says can be learned from it alone."""
    out, told = distilled
    gained = told["gained_over_labels_alone"]
    assert gained["next_token_agreement"]["interval"][0] > 0
    assert gained["kl_to_teacher"]["interval"][0] > 0
    assert told["arms"]["distilled"]["kl_to_teacher"]["value"] < told["arms"]["labels alone"]["kl_to_teacher"]["value"]
    assert told == json.loads((out / FILE).read_text())
    assert set(told["training"]) == {"distilled", "labels alone"}, "each with an epoch of its own"


def test_the_student_is_an_ordinary_folder(distilled: tuple[Path, dict[str, Any]], teacher_folder: Path) -> None:
    from transformers import AutoTokenizer

    out, told = distilled
    model, tokenizer = load(out), AutoTokenizer.from_pretrained(out)
    assert model.config.num_hidden_layers == 2
    assert model.config.use_cache
    assert cut.parameters(model) == told["parameters"]["student"] < told["parameters"]["teacher"]
    assert len(tokenizer) == model.config.vocab_size == told["vocabulary"]["kept"]
    assert told["vocabulary"]["more_tokens_held_out"] < 0.02
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Anna"}], tokenize=False) == "Anna"
    ids = tokenizer("Anna saw", return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(written[0]).startswith("Anna saw")


def test_a_vocabulary_cut_further_costs_tokens_and_says_so(teacher_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    asked = request(teacher_folder, corpus_of(tmp_path / "corpus", 16), vocabulary=290, evidence=False, epochs=1)
    told = distil(asked, tmp_path / "student", Store(tmp_path / "store"), NullProgress())
    assert told["vocabulary"]["kept"] < 390
    assert told["vocabulary"]["more_tokens_held_out"] > 0
    assert not told["vocabulary"]["same_tokens_in_training"]
    assert "gained_over_labels_alone" not in told


def test_the_teacher_is_asked_once(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, store = corpus_of(tmp_path / "corpus", 16), Store(tmp_path / "store")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    usual = {"evidence": False, "epochs": 1}
    first = distil(request(teacher_folder, data, **usual), tmp_path / "a", store, NullProgress())
    monkeypatch.setattr(lessons, "ask_teacher", None)
    monkeypatch.setattr(cut, "remove_layers", None)
    second = distil(request(teacher_folder, data, **usual), tmp_path / "b", store, NullProgress())
    assert first == second, "and training repeats to the bit"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"row_tokens": 513}, UsageError, "context ends at 512"),
        ({"layers": 5}, UsageError, "the teacher has 4"),
        ({"row_tokens": 64}, DataError, "a passage has"),
    ],
)
def test_what_cannot_be_is_refused(
    teacher_folder: Path, tmp_path: Path, values: dict[str, Any], error: type[Exception], words: str
) -> None:
    (tmp_path / "out").mkdir()
    asked = request(teacher_folder, corpus_of(tmp_path / "corpus", 16), **values)
    with pytest.raises(error, match=words):
        distil(asked, tmp_path / "out", Store(tmp_path / "store"), NullProgress())


def test_scores_of_a_model_against_itself(teacher_folder: Path) -> None:
    model = load(teacher_folder)
    draw = np.random.default_rng(0)
    samples = [{"input_ids": draw.integers(2, 400, (1, size))} for size in (9, 30, 14, 7, 21)]
    truth = np.array([[40, row % 2] for row in range(5)])
    own, [same] = scores.compare([copy.deepcopy(model)], model, samples, truth, None)
    np.testing.assert_allclose(same.bits, own, rtol=1e-5)
    assert scores.AGREEMENT.value(same.agreed) == 1
    assert scores.DIVERGENCE.value(same.divergence) == pytest.approx(0, abs=1e-6)
    alone = scores.bits_per_byte(model, samples, truth)
    assert alone == pytest.approx(own[:, 0].sum() / 200, rel=0.02)  # in bfloat16, where the CPU has units for it
