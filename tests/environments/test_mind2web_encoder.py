import json
import string

import pytest
import torch
from test_mind2web_records import record

from agenttuning.environments.mind2web import ranker, ranking
from agenttuning.environments.mind2web.encoder import Encoder, by_cosine, train, trained
from agenttuning.environments.mind2web.records import checked
from agenttuning.errors import ConfigurationError

WORDS = ("Save", "Open", "Close", "Print", "Undo")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than layers this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random BERT of two small layers that knows letters and the words of the records."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "|", *map(str.lower, WORDS), "button", "the", "file"]
    words += [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def records():
    """Five tasks, each named by its button."""
    found = []
    for place, word in enumerate(WORDS):
        data = record(WORDS, right=place, name=f"r{place}")
        data["confirmed_task"] = f"{word} the file"
        found.append(checked(data, "x"))
    return found


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(tiny):
    encoder = Encoder(tiny)
    vectors = encoder.embed_all(["save", "open the file", "save"])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    assert torch.equal(vectors[0], vectors[2])
    assert torch.allclose(vectors[1], encoder.embed_all(["open the file"])[0], atol=1e-6)


def test_training_puts_right_elements_first_and_is_saved(tiny, records, tmp_path):
    said = []
    encoder = train(records, tiny, epochs=25, seed=0, rate=3e-3, said=said.append)
    assert ranking.recall(by_cosine(Encoder(tiny)), records, (1,))[1] < 0.5
    assert ranking.recall(by_cosine(encoder), records, (1,))[1] == 1.0
    assert ranking.recall(trained(encoder), records, (1,))[1] == 1.0
    assert len(said) == 25
    encoder.save(tmp_path / "out")
    again = by_cosine(Encoder(tmp_path / "out"))
    assert again(records[0], 0) == pytest.approx(by_cosine(encoder)(records[0], 0), abs=1e-5)


def test_training_is_the_same_for_the_same_seed(tiny, records):
    first, second = (train(records, tiny, epochs=1, seed=5) for _ in range(2))
    assert torch.equal(first.embed_all(["save"]), second.embed_all(["save"]))


def test_the_program_trains_scores_and_measures(tiny, records, tmp_path, capsys):
    for split in ("train", "test_website"):
        (tmp_path / split).mkdir()
        items = [item.model_dump(mode="json") for item in records]
        (tmp_path / split / f"{split}_0.json").write_text(json.dumps(items))
    given = ["--root", str(tmp_path)]
    out, scores = tmp_path / "encoder", tmp_path / "scores.json"
    assert ranker.main(["train", "--encoder", str(tiny), "--out", str(out), "--epochs", "1", *given]) == 0
    assert ranker.main(["score", str(scores), "--encoder", str(out), *given]) == 0
    assert ranker.main(["measure", "--scores", str(scores), *given]) == 0
    assert ranker.main(["measure", *given]) == 0
    printed = capsys.readouterr().out
    assert "epoch 1 of 1" in printed
    assert "10 actions scored" not in printed
    assert "5 actions scored" in printed
    assert "R@10 1.000" in printed
    looked_up = ranking.from_scores(ranking.load_scores(scores), "x")(records[0], 0)
    assert looked_up == pytest.approx(trained(Encoder(out))(records[0], 0), abs=1e-5)


def test_a_directory_without_an_encoder_is_refused(tmp_path, capsys):
    with pytest.raises(ConfigurationError, match="holds no encoder"):
        Encoder(tmp_path)
    assert ranker.main(["measure", "--scores", str(tmp_path / "none.json")]) == 2
    assert "is not there" in capsys.readouterr().err
