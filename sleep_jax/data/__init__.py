"""What a run reads: documents, anchors, topics."""
