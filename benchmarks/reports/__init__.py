"""What readers get: tables, sentences, pictures, one HTML file."""
