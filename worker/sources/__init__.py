"""Where frames come from: cameras and recordings, decoded and scaled with PyAV."""
