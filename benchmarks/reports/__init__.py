"""What readers get: tables, sentences, charts, one HTML file."""
