"""Still images: reading, views, data sets and backbones; also what video frames share with them."""
