"""`python -m services.text_encoder`."""

from services.runtime.stage_server import StageDefinition, main
from services.text_encoder.budget import TextEncoderBudget
from services.text_encoder.service import add_servicer

if __name__ == "__main__":
    main(
        StageDefinition(
            "text_encoder", "acestage.text_encoder.v1.TextEncoderService", add_servicer, TextEncoderBudget()
        ),
        "Serves the text encoder: caption, lyrics and metadata become conditioning.",
    )
