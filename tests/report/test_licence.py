import pytest

from depthprune.report.licence import licence_of

CARD = "---\n{}---\n# A model\n"


@pytest.mark.parametrize(
    ("front", "found"),
    [
        ("license: apache-2.0\n", {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: gemma\nlicense_link: https://ai.google.dev/gemma/terms\nx: y\n",
            {
                "license": "other",
                "license_name": "gemma",
                "license_link": "https://ai.google.dev/gemma/terms",
            },
        ),
        ("license: [mit, apache-2.0]\n", {}),
        ("license: [mit\n", {}),
        ("- license\n", {}),
        ("", {}),
    ],
)
def test_the_licence_is_what_the_base_models_card_says(tmp_path, front, found):
    (tmp_path / "README.md").write_text(CARD.format(front))
    assert licence_of(str(tmp_path)) == found


@pytest.mark.parametrize("text", ["# No front matter\n---\nlicense: mit\n---\n", "", "---\nlicense: mit\n"])
def test_a_card_without_front_matter_says_none(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert licence_of(str(tmp_path)) == {}


def test_a_model_without_a_card_has_none(tmp_path):
    assert licence_of(str(tmp_path)) == {}
    assert licence_of("no-such-organisation/no-such-model") == {}
