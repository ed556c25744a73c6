"""What people look at: attention maps, GeoJSON, tables and pages."""
