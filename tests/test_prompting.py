"""Prompts: their form, their balance, what is kept apart, and a language model that misbehaves."""

import json
import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from dubmill import prompting
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import PromptSet
from dubmill.config import params as dubmill_params
from dubmill.errors import InvalidParamsError, ServiceUnavailableError, UnsupportedTextError
from dubmill.prompting import slots
from dubmill.prompting.phrases import PHRASES
from dubmill.steps.prompts import prompts as prompts_step
from dubmill.text.languages import LANGUAGES, is_in_script

SECTION = dubmill_params.load(Path(__file__).parent.parent / "params.yaml").prompts
BANK_LANGUAGES = ["en", "es", "fr", "de", "ru", "pt"]


def section(**changes):
    return SECTION.model_validate({**SECTION.model_dump(), **changes})


def bank(**changes):
    return section(source="bank", languages=BANK_LANGUAGES, num_train=60, num_heldout=30, **changes)


def prompts_of(params):
    return prompting.generate_prompts(params).prompts


def spoken_texts(prompts):
    return {line.text for one in prompts for line in (one.first, one.second, one.first_dubbed, one.second_dubbed)}


def of_split(prompts, split):
    return [one for one in prompts if one.split == split]


def test_a_dub_caption_names_speaker_language_and_exact_words():
    line = Line(language="es", text="uno tres")
    assert prompting.dub_caption("A person", line) == 'A person is speaking Spanish, saying: "uno tres"'
    assert prompting.dub_caption("", line) == prompting.dub_caption("A person", line)


def test_a_caption_in_a_language_outside_the_table_is_refused():
    with pytest.raises(UnsupportedTextError, match="unknown language 'xx'"):
        prompting.dub_caption("A person", Line(language="xx", text="uno"))


def test_a_switch_caption_tells_a_switch_only_where_there_is_one():
    one, two, three = (
        Line(language="en", text="one"),
        Line(language="es", text="dos"),
        Line(language="en", text="three"),
    )
    assert "switches to Spanish" in prompting.switch_caption("A man", one, two)
    assert "switches" not in prompting.switch_caption("A man", one, three)


@pytest.mark.parametrize("params", [SECTION, bank()], ids=["grammar", "bank"])
def test_every_drawn_prompt_keeps_the_form(params):
    prompts = prompts_of(params)
    assert len(prompts) == params.num_train + params.num_heldout
    assert [one.id for one in prompts] == [f"p{index:05d}" for index in range(len(prompts))]
    assert [prompting.faults(one) for one in prompts] == [[]] * len(prompts)


@pytest.mark.parametrize("params", [SECTION, bank()], ids=["grammar", "bank"])
def test_equal_params_give_equal_prompts_and_another_seed_gives_others(params):
    assert prompts_of(params) == prompts_of(params)
    assert prompts_of(params) != prompts_of(params.model_copy(update={"seed": params.seed + 1}))


@pytest.mark.parametrize("params", [SECTION, bank()], ids=["grammar", "bank"])
def test_ordered_language_pairs_are_balanced_within_each_split(params):
    for split in ("train", "heldout"):
        counts = Counter((one.first.language, one.second.language) for one in of_split(prompts_of(params), split))
        assert set(counts) == set(permutations(params.languages, 2))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("params", [SECTION, bank()], ids=["grammar", "bank"])
def test_held_out_prompts_share_no_seed_and_no_words_with_training(params):
    prompts = prompts_of(params)
    train, heldout = of_split(prompts, "train"), of_split(prompts, "heldout")
    assert len({one.seed for one in prompts}) == len(prompts)
    assert not spoken_texts(train) & spoken_texts(heldout)


def test_held_out_people_of_the_bank_are_not_in_training():
    prompts = prompts_of(bank())
    assert not {one.speaker for one in of_split(prompts, "train")} & {
        one.speaker for one in of_split(prompts, "heldout")
    }


def test_more_training_prompts_leave_the_first_ones_as_they_were():
    few, many = prompts_of(section(num_train=8)), prompts_of(section(num_train=20))
    assert few[:8] == many[:8]


def test_a_dubbed_line_of_nano_is_the_same_digits_in_the_other_language():
    from dubmill.nano.world import LANGUAGES as WORDS

    def digits(line):
        return [WORDS[line.language].index(word) for word in line.text.split()]

    for one in prompts_of(section(num_train=10, num_heldout=4)):
        assert digits(one.first) == digits(one.first_dubbed)
        assert digits(one.second) == digits(one.second_dubbed)
        assert one.first_dubbed.language == one.second.language != one.first.language == one.second_dubbed.language


def test_nano_can_film_what_the_grammar_asks_for():
    from dubmill.nano import world

    one = prompts_of(section(num_train=1, num_heldout=1))[0]
    for line in (one.first, one.second, one.first_dubbed, one.second_dubbed):
        assert " ".join(world.check_text(line.language, line.text)) == line.text
    assert one.speaker == world.puppet(one.seed).describe()


def test_the_phrase_bank_is_parallel_native_and_of_similar_length():
    assert len(PHRASES) >= 24
    for phrase in PHRASES:
        assert list(phrase) == BANK_LANGUAGES
        lengths = [len(text) for text in phrase.values()]
        assert max(lengths) <= 1.7 * min(lengths), phrase["en"]
        assert all(is_in_script(text, tag) for tag, text in phrase.items())
    for tag in BANK_LANGUAGES:
        assert len({phrase[tag] for phrase in PHRASES}) == len(PHRASES)


def test_a_bank_paragraph_tells_look_camera_and_language_and_is_one_paragraph():
    for one in prompts_of(bank()):
        assert "\n" not in one.caption
        assert "camera stays static" in one.caption
        assert one.caption.startswith(one.speaker)
        assert f"switches to {LANGUAGES[one.second.language].name}" in one.caption
        assert 60 <= len(one.caption.split()) <= 200


BREAKS = {
    "a line break": lambda told: told.replace(". ", ".\n", 1),
    "a heading": lambda told: f"# {told}",
    "markdown": lambda told: told.replace("The camera", "**The camera**"),
    "a list": lambda told: told.replace("The camera", "- The camera"),
    "a timestamp": lambda told: told.replace("The camera", "For 5 seconds the camera"),
    "a label": lambda told: told.replace("The camera", "Camera: it"),
    "a cut": lambda told: told.replace("The camera stays", "The camera cuts to the hands and stays"),
    "more than 200 words": lambda told: told.replace("The camera", "The " + "very " * 200 + "camera"),
    "does not quote exactly": lambda told: told.replace('"', "'"),
    "does not name": lambda told: re.sub("|".join(one.name for one in LANGUAGES.values()), "Klingon", told),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_each_forbidden_form_is_found_and_named(fault):
    good = prompts_of(bank())[0]
    broken = good.model_copy(update={"caption": BREAKS[fault](good.caption)})
    assert broken.caption != good.caption
    assert any(fault in found for found in prompting.faults(broken))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text": "Привет, как дела сегодня утром?"}, "not in the script"),
        ({"text": "word " * 30}, "more than 20 words"),
        ({"text": 'He said "yes" to all of them.'}, "double quote"),
        ({"text": "Ja."}, "differ in length"),
        ({"language": "xx"}, "unknown language"),
        ({"text": "12"}, "no words"),
    ],
)
def test_each_bad_line_is_found_and_named(changes, fault):
    good = prompts_of(bank())[0]
    broken = good.model_copy(update={"first_dubbed": good.first_dubbed.model_copy(update=changes)})
    assert any(fault in found for found in prompting.faults(broken))


def test_a_language_that_a_source_lacks_is_refused_with_those_it_has():
    with pytest.raises(UnsupportedTextError, match="use en, es, fr, de"):
        prompts_of(section(languages=["en", "it"]))
    with pytest.raises(UnsupportedTextError, match="no sentences in 'it'"):
        prompts_of(section(source="bank", languages=["en", "it"]))


def test_a_language_named_twice_is_refused():
    with pytest.raises(InvalidParamsError, match="named twice"):
        prompts_of(section(languages=["en", "es", "en"]))


# A language model that misbehaves


def answer(number, **changes):
    """A good answer to an English to Spanish scene, or the other way round, with its own words."""
    letter = "abcdefghijklmnop"[number]
    return {
        "speaker": "A woman in her thirties with short black hair",
        "action": "faces the camera and speaks",
        "clothing": "a red scarf",
        "setting": "in a small bakery",
        "light": "soft light falls from the left",
        "sound": "an oven hums",
        "voice": "a warm voice",
        "first": f"The bread is nearly ready {letter} today.",
        "second": f"Come back tomorrow {letter} at noon.",
        "first_dubbed": f"El pan está casi listo {letter} hoy.",
        "second_dubbed": f"Vuelve mañana {letter} al mediodía.",
        **changes,
    }


def completion(content):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def llm(url, **changes):
    return section(source="llm", llm_url=url, num_train=1, num_heldout=1, **changes)


def test_a_good_answer_becomes_a_prompt_and_the_key_is_sent(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    url, requests = endpoint(lambda number, body: completion(json.dumps(answer(number))))
    prompts = prompts_of(llm(url))
    assert [(one.id, one.split, one.source) for one in prompts] == [
        ("p00000", "train", "llm"),
        ("p00001", "heldout", "llm"),
    ]
    assert '"The bread is nearly ready b today."' in prompts[0].caption
    path, headers, body = requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sesame"
    assert "Spanish" in body["messages"][0]["content"]


def test_a_fenced_answer_is_read(endpoint):
    url, _ = endpoint(lambda number, body: completion(f"```json\n{json.dumps(answer(number))}\n```"))
    assert len(prompts_of(llm(url))) == 2


def test_a_broken_answer_is_requested_again_with_the_fault_named(endpoint):
    def reply(number, body):
        return completion("Sure! Here it is" if number == 1 else json.dumps(answer(number)))

    url, requests = endpoint(reply)
    assert len(prompts_of(llm(url))) == 2
    assert len(requests) == 3
    assert "not a JSON object" in requests[1][2]["messages"][-1]["content"]


def test_a_slot_whose_answers_stay_broken_is_dropped_with_the_reason(endpoint, tmp_path):
    def reply(number, body):
        scene = body["messages"][1]["content"]
        wrong = {"setting": "in a bakery for 5 seconds"} if "p00001" in scene else {}
        return completion(json.dumps(answer(number, **wrong)))

    url, requests = endpoint(reply)
    params = llm(url).model_copy(update={"num_train": 2, "llm_attempts": 2})
    sealed = prompts_step(params, tmp_path / "prompts")
    assert [one.id for one in sealed.rows] == ["p00000", "p00002"]
    assert [one["id"] for one in sealed.info["dropped"]] == ["p00001"]
    assert "a timestamp" in sealed.info["dropped"][0]["reason"]
    assert len(requests) == 1 + 2 + 1


def test_words_of_another_scene_are_not_taken_twice(endpoint):
    url, requests = endpoint(lambda number, body: completion(json.dumps(answer(0 if number <= 2 else number))))
    prompts = prompts_of(llm(url))
    assert len(requests) == 3
    assert not spoken_texts(prompts[:1]) & spoken_texts(prompts[1:])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[]", "valid dictionary"),
        (json.dumps({"speaker": "A man"}), "Field required"),
        (json.dumps(answer(1, mood="cheerful")), "mood"),
        (json.dumps(answer(1, first='They "said" it today.')), "double quote"),
        (json.dumps(answer(1, first_dubbed="Хлеб почти готов сегодня утром.")), "not in the script"),
    ],
)
def test_a_model_that_never_keeps_the_form_ends_the_step_with_its_fault(endpoint, content, fault):
    url, _ = endpoint(lambda number, body: completion(content))
    with pytest.raises(ServiceUnavailableError, match=fault):
        prompts_of(llm(url))


@pytest.mark.parametrize(
    ("status", "text", "told"), [(401, "no key", "status 401"), (200, "<html>", "not a chat completion")]
)
def test_a_server_that_refuses_or_talks_nonsense_is_named(endpoint, status, text, told):
    url, _ = endpoint(lambda number, body: (status, text))
    with pytest.raises(ServiceUnavailableError, match=told):
        prompts_of(llm(url))


def test_an_endpoint_that_is_not_there_is_one_sentence():
    with pytest.raises(ServiceUnavailableError, match=r"http://127\.0\.0\.1:9/v1"):
        prompts_of(llm("http://127.0.0.1:9/v1"))


# The step


def test_the_step_seals_rows_and_a_page_and_the_same_digest_anywhere(tmp_path):
    params = section(num_train=5, num_heldout=3)
    one, two = prompts_step(params, tmp_path / "one"), prompts_step(params, tmp_path / "two")
    assert one.digest == two.digest
    assert PromptSet.open(tmp_path / "one").rows == prompts_of(params)
    assert one.info == {"num_prompts": 8, "source": "grammar", "dropped": []}
    page = (tmp_path / "one" / "prompts.md").read_text()
    assert one.rows[0].caption in page
    assert one.split("heldout")[0].caption in page


def test_a_rerun_of_the_step_does_nothing(tmp_path):
    params = section(num_train=2, num_heldout=2)
    prompts_step(params, tmp_path / "one")
    before = (tmp_path / "one" / "manifest.json").stat().st_mtime_ns
    assert len(prompts_step(params, tmp_path / "one").rows) == 4
    assert (tmp_path / "one" / "manifest.json").stat().st_mtime_ns == before


def test_no_prompt_has_a_puppet_that_a_part_of_nano_was_trained_on():
    from dubmill.nano.pretrain.data import HELD_OUT_SEED

    assert slots.MIN_PROMPT_SEED == HELD_OUT_SEED
    count = 3000  # of 3,000 seeds without a bound some fourteen are below it
    assert min(np.random.default_rng(7).integers(slots.MAX_PROMPT_SEED, size=count)) < HELD_OUT_SEED
    assert min(slots.unique_seeds(7, count)) >= HELD_OUT_SEED
