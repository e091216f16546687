"""A conversation of the terminal, without a terminal, with the model of `echo.py`."""

from fastvlm_mlx.app.chat.repl import Repl
from fastvlm_mlx.generation.sampling import Sampling
from tests.support.echo import EchoConversation


def repl_of_echo() -> tuple[Repl, EchoConversation]:
    conversation = EchoConversation()
    session = Repl(conversation, "echo", Sampling())  # pyright: ignore[reportArgumentType]
    return session, conversation
