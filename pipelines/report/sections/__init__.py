"""What each section of the report says, as plain values for its template. One file a section."""
