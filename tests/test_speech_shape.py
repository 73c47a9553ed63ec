"""Whisper cut to fewer layers and a shorter window: its teacher where nothing is cut, and its sizes on paper."""

import pytest
import torch
from tiny_listener import whisper
from transformers import WhisperForConditionalGeneration

from edgekd.core.errors import UsageError
from edgekd.students.whisper import Whisper
from edgekd.training.speech.shape import check, cut

BASE = Whisper(6, 6, 512, 2048, 2048, 51865, 80, 30, 448, 8)


@pytest.fixture(scope="module")
def teacher():
    return whisper()


def inputs(window=10, tokens=6):
    draw = torch.Generator().manual_seed(1)
    features = torch.randn((1, 80, window * 100), generator=draw)
    return {"input_features": features, "decoder_input_ids": torch.randint(0, 37, (1, tokens), generator=draw)}


def test_a_cut_of_nothing_is_its_teacher(teacher):
    own = cut(teacher, encoder_layers=4, decoder_layers=3, window_s=30)
    with torch.no_grad():
        assert torch.equal(own(**inputs(30)).logits, teacher(**inputs(30)).logits)


def test_the_window_takes_the_first_positions(teacher, tmp_path):
    own = cut(teacher, encoder_layers=4, decoder_layers=3, window_s=10)
    table = "model.encoder.embed_positions.weight"
    assert torch.equal(own.state_dict()[table], teacher.state_dict()[table][:500])
    own.save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**inputs(10)).logits, own(**inputs(10)).logits)


def test_the_first_and_the_last_layers_stay(teacher):
    own = cut(teacher, encoder_layers=2, decoder_layers=2, window_s=10)
    for side, places in (("encoder", (0, 3)), ("decoder", (0, 2))):
        for new, old in enumerate(places):
            name = f"model.{side}.layers.{{}}.fc1.weight"
            assert torch.equal(own.state_dict()[name.format(new)], teacher.state_dict()[name.format(old)])
    assert own.proj_out.weight is own.model.decoder.embed_tokens.weight


def test_weights_on_paper_are_those_of_the_model(teacher):
    for sizes in ((4, 3, 30), (1, 2, 10), (2, 1, 20)):
        own = cut(teacher, **dict(zip(("encoder_layers", "decoder_layers", "window_s"), sizes, strict=True)))
        assert sum(Whisper.of(own.config).parameters().values()) == sum(value.numel() for value in own.parameters())
    assert sum(BASE.parameters().values()) == 72_593_920


def test_multiply_adds_are_those_that_torch_counts(teacher):
    from torch.utils.flop_counter import FlopCounterMode

    own = cut(teacher, encoder_layers=4, decoder_layers=1, window_s=10)
    own.set_attn_implementation("eager")  # whose products are counted
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        own.model.encoder(inputs(10)["input_features"])
    assert Whisper.of(own.config).multiply_adds()["encoder"] == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_a_third_of_the_window_is_less_than_a_third_of_the_encoder():
    short = Whisper(6, 2, 512, 2048, 2048, 51865, 80, 10, 448, 8)
    assert BASE.multiply_adds()["encoder"] > 3.7 * short.multiply_adds()["encoder"]
    assert short.multiply_adds()["projection"] == BASE.multiply_adds()["projection"] == 20 * 51865 * 512
    assert short.cache_mib(20) == pytest.approx(2 * 2 * 520 * 512 * 4 / 2**20)


@pytest.mark.parametrize(
    ("asked", "words", "fix"),
    [
        ({"decoder_layers": 7}, "--layers 7: the teacher has 6", "--layers 6"),
        ({"encoder_layers": 9}, "--encoder-layers 9: the teacher has 6", "--encoder-layers 6"),
        ({"window_s": 5}, "repeats itself", "--window 10"),
        ({"window_s": 31}, "hears 30 s at once", "--window 10"),
    ],
)
def test_what_cannot_be_cut_so_is_refused_with_what_can(asked, words, fix):
    whole = {"encoder_layers": 6, "decoder_layers": 6, "window_s": 30}
    check(BASE, **whole)
    with pytest.raises(UsageError, match=words) as error:
        check(BASE, **whole | asked)
    assert fix in error.value.fix
