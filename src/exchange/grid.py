
if __name__ == "__main__":
    from PIL import Image
    from safetensors.torch import load_file

    g = Generator()
    g.load_state_dict(load_file("generator.safetensors"))
    rows = #ROWS#
    with torch.no_grad():
        images = g(#ARGUMENTS#)
    levels = ((images + 1.0) * 127.5 + 0.5).clamp(0, 255).byte()
    grid = levels.reshape(rows, 8, CHANNELS, HEIGHT, WIDTH).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * HEIGHT, 8 * WIDTH, CHANNELS)
    Image.fromarray(grid.squeeze(2).numpy() if CHANNELS == 1 else grid.numpy()).save("grid.png")
