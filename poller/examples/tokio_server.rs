//! A TCP server on tokio that encrypts what its clients send, on an accelerator.
//!
//! ```text
//! cargo run -p ringbell --example tokio_server -- [DEVICE]                # serves on 127.0.0.1:4433
//! cargo run -p ringbell --example tokio_server -- --self-test [DEVICE]    # clients of its own, then ends
//! ```
//!
//! A message is its length (four bytes, big-endian, at most 64 KiB), then the data. Back comes the same length,
//! and the data encrypted with AES-256-CTR by one key and a counter that is the number of the message.
//!
//! Awaiting a request works on every executor. Here a connection is a task with a context of its own: it
//! has one request in flight at a time, and hundreds of connections keep the device busy together.

use ringbell::{Cipher, CipherKey, Device, Poller, TaskCtx};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The longest message.
const LONGEST: usize = 64 << 10;

/// Serves one client until it hangs up.
async fn serve(mut client: TcpStream, key: CipherKey) -> Result<()> {
    let device = key.device();
    let mut ctx = TaskCtx::new(device);
    // DMA memory for the longest message, used again and again: data goes from the socket straight there.
    let mut request = key.encrypt(&[0; 16], device.buffer(LONGEST)?);
    let mut message = 0_u128;
    loop {
        let mut header = [0; 4];
        if client.read(&mut header[..1]).await? == 0 {
            return Ok(());
        }
        client.read_exact(&mut header[1..]).await?;
        let len = u32::from_be_bytes(header) as usize;
        if len == 0 || len > LONGEST {
            return Err(format!("a message of {len} bytes").into());
        }
        request.set_len(len)?;
        client.read_exact(request.input_mut()).await?;
        request.set_iv(&(message << 64).to_be_bytes());
        // While the device works (or has no room) this task waits and others run. Where the client hangs up
        // meanwhile and the task is dropped, the request is given up, and its memory goes back when the
        // device has returned it.
        let done = ctx.run(request).await?;
        done.result()?;
        client.write_all(&header).await?;
        client.write_all(done.request().output()).await?;
        request = done.into_request();
        message += 1;
    }
}

/// Accepts clients for ever.
async fn listen(listener: TcpListener, key: CipherKey) -> Result<()> {
    loop {
        let (client, address) = listener.accept().await?;
        let key = key.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(client, key).await {
                eprintln!("{address}: {error}");
            }
        });
    }
}

/// A client: sends messages, twice each over two connections, and looks whether the answers are the same
/// and are what comes back as the data when they are sent once more (CTR is its own inverse).
async fn client(server: std::net::SocketAddr, number: u8) -> Result<u64> {
    let mut first = TcpStream::connect(server).await?;
    let mut second = TcpStream::connect(server).await?;
    let mut answered = 0;
    for round in 1..=20_usize {
        let data = vec![number; (round * 1000 * (usize::from(number) + 1)) % LONGEST + 1];
        let mut answers = Vec::new();
        // The same number of message on both connections, so the same counter.
        for (stream, sent) in [(&mut first, 0), (&mut second, 1)] {
            let message = if sent == 0 { &data } else { answers.first().unwrap_or(&data) };
            stream.write_all(&(message.len() as u32).to_be_bytes()).await?;
            stream.write_all(message).await?;
            let len = stream.read_u32().await? as usize;
            let mut answer = vec![0; len];
            stream.read_exact(&mut answer).await?;
            answers.push(answer);
            answered += 1;
        }
        if answers[0] == data || answers[1] != data {
            return Err(format!("a wrong answer to message {round} of client {number}").into());
        }
    }
    Ok(answered)
}

async fn self_test(key: CipherKey) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(listen(listener, key));
    let clients: Vec<_> = (0..10).map(|number| tokio::spawn(client(address, number))).collect();
    let mut answered = 0;
    for client in clients {
        answered += client.await??;
    }
    server.abort();
    println!("{answered} messages were answered rightly");
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_test = arguments.next_if(|argument| argument == "--self-test").is_some();
    let address = arguments.next().unwrap_or_else(|| "sim:".to_owned());

    let device = Device::open(&address)?;
    // The poll thread of the device, beside tokio's threads.
    let poller = Poller::spawn(&device, Default::default())?;
    let key = device.cipher_key(Cipher::Aes256Ctr, &[0x42; 32])?;
    key.prepare()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        if is_test {
            return self_test(key).await;
        }
        let listener = TcpListener::bind("127.0.0.1:4433").await?;
        println!("listening on {}", listener.local_addr()?);
        listen(listener, key).await
    });
    // First the tasks, which give up what they have in flight, then the device.
    drop(runtime);
    poller.shutdown();
    result
}
