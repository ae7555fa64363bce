"""Gold programs are taken apart only where that changes nothing."""

import pytest

from agenttuning.environments.operating_system.pipelines import leading_cd, paths, stages, without_comments


@pytest.mark.parametrize(
    ("program", "parts"),
    [
        ("ls ~/a | wc -l", ["ls ~/a", "wc -l"]),
        ("grep 'a|b' f | sort | uniq", ["grep 'a|b' f", "sort", "uniq"]),
        ("awk '{ print $1 | \"sort\" }' f | wc -l", ["awk '{ print $1 | \"sort\" }' f", "wc -l"]),
        ("find . -name \\| | wc -l", ["find . -name \\|", "wc -l"]),
        ("find ~ -type f -delete | wc -l", None),
        ("find ~ -exec rm {} + | wc -l", None),
        ("sed -i s/a/b/ f | cat", None),
        ("cat f > g | wc -l", None),
        ("for f in *; do cat $f; done | wc -l", None),
        ("cat $(ls) | wc -l", None),
        ("a=1 && ls | wc -l", None),
        ("ls; ls | wc -l", None),
        ("ls\nls | wc -l", None),
        ("make | wc -l", None),
        ("find . | xargs rm | wc -l", None),
        ("find . -print0 | xargs -0 wc -l | tail -n 1", ["find . -print0", "xargs -0 wc -l", "tail -n 1"]),
    ],
)
def test_stages(program: str, parts: list[str] | None) -> None:
    assert stages(program) == (parts or [program])


@pytest.mark.parametrize(
    ("program", "where", "rest"),
    [
        ("cd ~/logs\nls", "~/logs", "ls"),
        ("cd logs && ls | wc -l", "logs", "ls | wc -l"),
        ('cd "$HOME/x"; ls', None, 'cd "$HOME/x"; ls'),
        ("ls", None, "ls"),
    ],
)
def test_a_leading_cd(program: str, where: str | None, rest: str) -> None:
    assert leading_cd(program) == (where, rest)


def test_paths_are_words_with_a_slash() -> None:
    assert paths("grep -h x ~/logs/*.log /var/log/a.txt | awk '{print $1/2}' | sort") == [
        "~/logs/*.log",
        "/var/log/a.txt",
    ]
    assert paths("ls | wc -l") == []


def test_comments_go_but_documents_stay() -> None:
    assert without_comments("#!/bin/bash\n\n# count\nls | wc -l # here\n") == "ls | wc -l # here"
    assert without_comments("cat <<E\n# text\nE") == "cat <<E\n# text\nE"
