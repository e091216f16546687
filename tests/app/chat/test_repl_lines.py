"""What the conversation in a terminal makes of a line, without a terminal."""

from fastvlm_mlx.app.chat import repl
from fastvlm_mlx.errors import ContextError, OptionError
from tests.support.echo_repl import repl_of_echo


def test_words_that_leave():
    for word in ("quit", "Exit", "exit()", ":q", "/bye"):
        session, conversation = repl_of_echo()
        session.obey(word)
        assert session.leaving and not conversation.turns
    session, conversation = repl_of_echo()
    session.obey("exit\nmeans what?")
    assert not session.leaving and conversation.turns


def test_odd_lines_are_questions_or_unknown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "what").touch()
    odd = ["'", '"', "\\", "\0", "x" * 5000, "~nobody/x", ".", "what", "a /image b"]
    session, conversation = repl_of_echo()
    for line in [*odd, "/", "//", "/Image x", "/nowhere now"]:
        session.obey(line)
    assert [question for question, _ in conversation.turns] == odd
    unknown = capsys.readouterr().err.splitlines()
    assert len(unknown) == 4 and all("unknown command" in line for line in unknown)


def test_a_full_context_names_the_way_out_of_a_session(capsys):
    repl.report(ContextError("the context is full; shorten the text"))
    shown = capsys.readouterr().err
    assert shown == (
        "error: the context is full; shorten the text; /reset starts over\n"
    )
    repl.report(OptionError("no"))
    assert capsys.readouterr().err == "error: no\n"
