"""Speech recognition: a Whisper cut to what a device has room for, and taught what the whole one writes."""
