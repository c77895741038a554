// Limbs to digits: the redundant words of an element become words for residue_normalise.
//
//   sum_j m_data_j * 2^(V*j) = sum_j s_t_j * 2^(V*j)   mod 2^(V*count)
//
// V is WordBits, with Karatsuba 2 * WordBits: two digits of Width = WordBits each.
// Schoolbook: t = {t1, t0}, one digit t0 + t1*2^H. Karatsuba: t = {t3 - t1, t2 - t0, t1, t0}, digits
// t0 + t1*2^H and t2 + t3*2^H.
//
// Ranges:     t as residue_mac_word and residue_mac_karatsuba give it; each digit of m_data
//             [0, 2^(WordBits + 3)).
// Latency:    2 cycles, independent of data. Throughput: one word a cycle.
// Cost:       one adder of WordBits + 3 bits; with Karatsuba two of H bits.
`default_nettype none

module residue_join #(
    parameter int unsigned WordBits = 51,
    parameter bit Karatsuba = 1'b0,
    localparam int unsigned H = (WordBits + 1) / 2,
    localparam int unsigned TBits = Karatsuba ? 4 * H + 8 : 2 * H + 4,
    localparam int unsigned DigitBits = WordBits + 3,
    localparam int unsigned OutBits = Karatsuba ? 2 * DigitBits : DigitBits
) (
    input  wire                clk,
    input  wire  [  TBits-1:0] s_t,
    output logic [OutBits-1:0] m_data
);

  if (Karatsuba) begin : g_karatsuba
    logic [H-1:0] t0_q, t2_q, t3_q;
    logic [H+2:0] t1_q;
    wire [H-1:0] t0 = s_t[0+:H];
    wire [H+2:0] t1 = s_t[H+:H+3];
    always_ff @(posedge clk) begin
      t0_q   <= t0;
      t1_q   <= t1;
      t2_q   <= t0 + s_t[2*H+3+:H];
      t3_q   <= t1[H-1:0] + s_t[3*H+4+:H];
      m_data <= {3'd0, t3_q, t2_q, t1_q, t0_q};
    end
  end else begin : g_schoolbook
    localparam int unsigned T = H + 2;
    logic [TBits-1:0] t_q;
    always_ff @(posedge clk) begin
      t_q    <= s_t;
      m_data <= DigitBits'(t_q[T-1:0]) + DigitBits'({t_q[2*T-1:T], H'(0)});
    end
  end

endmodule

`default_nettype wire
