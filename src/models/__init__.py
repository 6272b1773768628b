"""What each family of vision-language models counts for a text and an image. Pure functions, no engine."""
