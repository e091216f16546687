"""No test depends on which ran before it, or on the machine's settings."""


def test_the_hub_library_is_online_whoever_imported_it():
    """The fixture `run` sets HF_HUB_OFFLINE, which the library would keep for good."""
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is False
