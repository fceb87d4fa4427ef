"""The bytes of messages and of what surrounds them: Arrow's flatbuffers, layouts, footers; rows on their way in."""
