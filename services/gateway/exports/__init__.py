"""Generated audio as users take it away: encoded, tagged, named and pictured."""
