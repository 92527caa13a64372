"""What a person looks at: pictures, curves, report.html."""
