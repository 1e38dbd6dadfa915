"""Reading labelled images: COCO, Pascal VOC, and what a replay wrote, each checked whole."""
