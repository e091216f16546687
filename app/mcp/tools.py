"""The tools: their arguments, what they ask the model, how they are described."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fastvlm_mlx.app.server.api.chat_request import Count

IMAGE = (
    "Path of an image file (relative to the folder of the server, or absolute), or the"
    " image itself as a data: URL or base64."
)
Image = Annotated[str, Field(description=IMAGE)]
MaxTokens = Annotated[
    Count, Field(description="End the answer after this many tokens.")
]


class Arguments(BaseModel):
    """What all tools take."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_tokens: MaxTokens = 512

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        raise NotImplementedError

    @property
    def sources(self) -> list[str]:
        """The images, as they were named."""
        raise NotImplementedError

    @property
    def fields(self) -> list[str]:
        """What `sources` are called in errors."""
        return ["image"]

    @property
    def output_schema(self) -> Any:
        """The JSON schema of the answer; None is plain text."""
        return None


class OneImage(Arguments):
    """What tools about one image take."""

    image: Image

    @property
    def sources(self) -> list[str]:
        return [self.image]


class DescribeImage(OneImage):
    @property
    def prompt(self) -> str:
        return "Describe the image."


class AskImage(OneImage):
    question: Annotated[
        str, Field(description="A question about the image.", min_length=1)
    ]

    @property
    def prompt(self) -> str:
        return self.question


class ReadText(OneImage):
    @property
    def prompt(self) -> str:
        return "Write down all the text in the image, and nothing else."


class CompareImages(Arguments):
    images: Annotated[
        list[Image], Field(description="Two images or more.", min_length=2)
    ]
    question: Annotated[str, Field(description="What to compare.", min_length=1)] = (
        "What is the same in these images, and what differs?"
    )

    @property
    def prompt(self) -> str:
        return self.question

    @property
    def sources(self) -> list[str]:
        return self.images

    @property
    def fields(self) -> list[str]:
        return [f"images[{at}]" for at in range(len(self.images))]


class Extract(OneImage):
    form: Annotated[
        dict[str, Any],
        Field(alias="schema", description="A JSON schema of the data to extract."),
    ]
    instruction: Annotated[str, Field(description="What to extract.", min_length=1)] = (
        "Extract the data from the image as JSON."
    )

    @property
    def prompt(self) -> str:
        return self.instruction

    @property
    def output_schema(self) -> Any:
        return self.form


class LookAtScreen(Arguments):
    question: Annotated[
        str, Field(description="A question about the screen.", min_length=1)
    ] = "Describe what is on the screen."

    @property
    def prompt(self) -> str:
        return self.question

    @property
    def sources(self) -> list[str]:
        return []  # the screen is captured when the tool is called


@dataclass(frozen=True)
class ToolSpec:
    """A tool as clients see it, and the form of its arguments."""

    name: str
    title: str
    description: str
    arguments: type[Arguments]

    def input_schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        schema = self.arguments.model_json_schema(by_alias=True)
        schema.pop("description", None)
        return _without_titles(schema)


def _without_titles(node: Any) -> Any:
    """`node` without the titles that pydantic makes of names."""
    if isinstance(node, dict):
        return {
            key: _without_titles(value)
            for key, value in node.items()
            if key != "title" or not isinstance(value, str)
        }
    if isinstance(node, list):
        return [_without_titles(each) for each in node]
    return node


ANYWHERE = (
    ToolSpec(
        "describe_image",
        "Describe an image",
        "Describe an image in a few sentences.",
        DescribeImage,
    ),
    ToolSpec(
        "ask_image",
        "Ask about an image",
        "Answer a question about an image. Further questions about the same image are"
        " quick: it is read once.",
        AskImage,
    ),
    ToolSpec(
        "read_text",
        "Read the text in an image",
        "Return the text that is visible in an image, such as a sign, a screenshot or"
        " a scanned page.",
        ReadText,
    ),
    ToolSpec(
        "compare_images",
        "Compare images",
        "Compare two or more images: what is the same and what differs.",
        CompareImages,
    ),
    ToolSpec(
        "extract",
        "Extract data from an image",
        "Return data from an image as JSON that follows a JSON schema.",
        Extract,
    ),
)
SCREEN = ToolSpec(
    "look_at_screen",
    "Look at the screen",
    "Answer a question about what the screen of this Mac shows now.",
    LookAtScreen,
)
Capture = Callable[[], bytes]
"""Returns an image of the screen as the bytes of a file; it blocks."""
